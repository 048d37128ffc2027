"""Whether a run survives being killed: kill -9 at random moments, then every number against an unbroken run's.

    python -m benchmarks.soak_kill [--kills=20] [--steps=120] [--seed=0] [--keep=DIR]

The default run (pocket, Dynamic CoT) with a checkpoint every second step. A moment is up to ten steps after the start
and up to a second later, or up to fifteen seconds after the start: in start-up, in a step, in the writing of a
checkpoint. Compared bit by bit are parameters, moments and γ, every step's metrics, every post's loss and the answers.
"""

import argparse
import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from benchmarks.machine import describe_machine

TIMES = re.compile(r"(\w+_)?seconds|data_wait_share|\w+_per_second")
"""Names of metrics that differ between any two runs."""


def killed_run(command: Sequence[str], workdir: Path, kills: int, rng: random.Random) -> list[int]:
    """Runs `command` to its end, killed and restarted `kills` times; returns the steps logged at each kill."""
    seen = []
    for number in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = _logged(workdir)
        if number % 4 == 3:
            time.sleep(rng.uniform(0, 15))
        else:
            more = rng.randint(1, 10)
            while process.poll() is None and _logged(workdir) - before < more:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(_logged(workdir))
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"after {kills} kills the run ended with {done.returncode}: {done.stderr[-2000:]}")
    return seen


def differences(one: Path, other: Path) -> list[str]:
    """Differences between the work directories of two finished runs, bit by bit."""
    curves = enumerate(zip(_curve(one), _curve(other), strict=True), 1)
    found = [f"metrics of step {step}" for step, (ours, theirs) in curves if ours != theirs]
    with np.load(one / "losses.npz") as ours, np.load(other / "losses.npz") as theirs:
        found += [name for name in theirs if not np.array_equal(ours[name], theirs[name], equal_nan=True)]
    ours, theirs = _state(one), _state(other)
    found += [path for path in ours.keys() ^ theirs.keys()]
    found += [path for path in ours.keys() & theirs.keys() if not np.array_equal(ours[path], theirs[path])]
    (ours,), (theirs,) = ((each / "predictions").glob("*.jsonl") for each in (one, other))
    return found + [ours.name] * (ours.name != theirs.name or ours.read_bytes() != theirs.read_bytes())


def _logged(workdir: Path) -> int:
    file = workdir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _curve(workdir: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if not TIMES.fullmatch(name)} for line in lines]


def _state(workdir: Path) -> dict[str, np.ndarray]:
    whole = (each for each in (workdir / "checkpoints").iterdir() if each.name.isdigit())
    folder = max(whole, key=lambda step: int(step.name)) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(folder)
    return {path: np.asarray(leaf) for path, leaf in ocp.tree.to_flat_dict(restored, sep="/").items()}


def main() -> int:
    """The exit status: 0 where nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--keep", type=Path, help="a folder for both runs, which are otherwise removed")
    args = parser.parse_args()
    fields = {"total_steps": args.steps, "num_epochs": 0, "checkpoint_every": 2, "eval_posts": 16, "ablations": False}
    command = [sys.executable, "-m", "mmkp_jax.main", "--config=configs/dyncot.py"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    with contextlib.nullcontext(args.keep) if args.keep else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([*command, f"--workdir={folder / 'unbroken'}"], check=True, stdout=subprocess.DEVNULL)
        began = time.perf_counter()
        killed = [*command, f"--workdir={folder / 'killed'}"]
        seen = killed_run(killed, folder / "killed", args.kills, random.Random(args.seed))
        different = differences(folder / "killed", folder / "unbroken")
    print(f"{args.kills} kills in {time.perf_counter() - began:.0f} s, with so many steps logged: {seen}")
    print(
        f"of {args.steps} steps, {len(different)} arrays, metrics or files differ from the unbroken run's {different}"
    )
    print(describe_machine())
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
