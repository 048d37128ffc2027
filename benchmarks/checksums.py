"""What checksums cost: hashing against Orbax's own writing and reading of the same checkpoint.

    python -m benchmarks.checksums [--gigabytes=2] [--rounds=3] [--folder=DIR]

Random float32 arrays are saved as a run saves its state. Writing is measured with and without checksums, in turn;
verifying with the files in the system's cache (what is measured then is the hash) and after they were dropped from it
(what is measured then is the disk). For a checkpoint of 40 GB the figures are multiplied: it is not measured.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from benchmarks.machine import describe_machine
from mmkp_jax.runtime.checksums import find_damage, write_checksums
from mmkp_jax.training import sealing
from mmkp_jax.training.checkpoint import Checkpoints

LARGE = 40
"""Gigabytes that the figures are carried over to: a 3B model's state as float32 with both moments."""


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; the system's own by default")
    args = parser.parse_args()
    arrays = 16
    shape = (int(args.gigabytes * 1e9 / 4 / arrays / 1024), 1024)
    keys = jax.random.split(jax.random.key(0), arrays)
    state = {f"layer_{n}": jax.random.normal(key, shape, jnp.float32) for n, key in enumerate(keys)}
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e9
    seconds: dict[str, list[float]] = {}

    def measure(name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        for number in range(args.rounds):
            for told, write in (("written with checksums", write_checksums), ("written without", lambda _: None)):
                sealing.write_checksums = write
                step = number + 1
                with Checkpoints(Path(name) / told, keep=1) as checkpoints:
                    measure(told, lambda to=checkpoints, step=step: (to.save(step, state, {}), to.wait()))
            with Checkpoints(Path(name) / "written with checksums", keep=1) as checkpoints:
                step = checkpoints.latest()
                folder = Path(name) / "written with checksums" / str(step)
                measure("verified, in the cache", lambda folder=folder: _check(folder))
                measure("restored, with verifying", lambda to=checkpoints, step=step: to.restore(step, structs))
                _drop(folder)
                measure("verified, not in the cache", lambda folder=folder: _check(folder))
    print(f"{size:.2f} GB, {args.rounds} rounds, medians\n\n| | s | GB/s | {LARGE} GB, multiplied |")
    print("| --- | --- | --- | --- |")
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.2f} | {size / middle:.2f} | {LARGE * middle / size:.0f} s |")
    print(describe_machine(), f"orbax {ocp.__version__}", sep=", ")


def _check(folder: Path) -> None:
    found = find_damage(folder)
    assert found is None, found


def _drop(folder: Path) -> None:
    """Asks the system to forget what it holds of the files in memory."""
    for file in folder.rglob("*"):
        if file.is_file():
            opened = os.open(file, os.O_RDONLY)
            os.fsync(opened)
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(opened)


if __name__ == "__main__":
    main()
