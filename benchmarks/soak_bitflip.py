"""Whether a damaged checkpoint is detected: single bits flipped at random positions of a real one.

    python -m benchmarks.soak_bitflip [--flips=200] [--seed=0]

The checkpoint is of the default run (pocket, Dynamic CoT) after three steps. Each byte of all its files is as likely
to be hit as any other. A flip counts as noticed where restoring raises the project's own error and no number was
restored; then the bit is flipped back, and the checkpoint must be restored as it was.
"""

import argparse
import collections
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.machine import describe_machine
from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.runtime.json_files import read_object
from mmkp_jax.training.checkpoint import Checkpoints
from mmkp_jax.training.setup import plan_training
from mmkp_jax.training.step import State

STEPS = 3


class Flip(NamedTuple):
    """A flipped bit."""

    file: str
    """Path below the checkpoint's folder."""
    bit: int
    noticed: bool


def flips(folder: Path, count: int, rng: random.Random, restore: Callable[[], object]) -> Iterator[Flip]:
    """Flips single bits of a folder's files, one at a time, and flips each back once `restore` has been called."""
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    sizes = [file.stat().st_size for file in files]
    for _ in range(count):
        (file,) = rng.choices(files, sizes)
        bit = rng.randrange(8 * file.stat().st_size)
        flip_bit(file, bit)
        try:
            restore()
            noticed = False
        except InputError:
            noticed = True
        flip_bit(file, bit)
        yield Flip(file.relative_to(folder).as_posix(), bit, noticed)


def flip_bit(file: Path, bit: int) -> None:
    """Flips a bit of a file where it is."""
    with file.open("r+b") as opened:
        opened.seek(bit // 8)
        (byte,) = opened.read(1)
        opened.seek(bit // 8)
        opened.write(bytes([byte ^ 1 << bit % 8]))


def _state_of(workdir: Path) -> State:
    config = ConfigDict(read_object(workdir / "config.json").content)
    return plan_training(config, open_folder(config.model.path).config).state


def main() -> int:
    """The exit status: 0 where every flip was detected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="seed of the positions")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        workdir = Path(name) / "run"
        fields = {"total_steps": STEPS, "num_epochs": 0, "warmup_steps": 1, "eval_posts": 8, "ablations": False}
        command = [sys.executable, "-m", "mmkp_jax.main", "--config=configs/dyncot.py", f"--workdir={workdir}"]
        command += [f"--config.{field}={value}" for field, value in fields.items()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        state, folder = _state_of(workdir), workdir / "checkpoints" / str(STEPS)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            before = checkpoints.restore(STEPS, state).state
            began = time.perf_counter()
            found = list(flips(folder, args.flips, random.Random(args.seed), lambda: checkpoints.restore(STEPS, state)))
            seconds = time.perf_counter() - began
            after = checkpoints.restore(STEPS, state).state
    same = all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (before, after)), strict=True))
    print("| file | flips | noticed |\n| --- | --- | --- |")
    counts = collections.Counter(_kind(flip.file) for flip in found)
    noticed = collections.Counter(_kind(flip.file) for flip in found if flip.noticed)
    for kind, count in [*counts.most_common(), ("all", len(found))]:
        print(f"| {kind} | {count} | {noticed[kind] if kind in counts else noticed.total()} |")
    print(f"a checkpoint of {size:,} bytes; {seconds:.0f} s; restored afterwards as before: {'yes' if same else 'no'}")
    print(describe_machine())
    return int(noticed.total() != len(found) or not same)


def _kind(file: str) -> str:
    """The folder's name for data files, the file's own name for others."""
    return f"{file.rpartition('/')[0]}/*" if "/d/" in file else file


if __name__ == "__main__":
    sys.exit(main())
