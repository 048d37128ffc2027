"""A million damaged inputs to every reader of files and answers: `python -m benchmarks.soak_fuzz [--inputs=N]`.

Each core feeds another target, in a process of its own, so that a crash or a hang of a library in C is one target's.
Prints a line a target: inputs, those refused in one line, failures, the slowest input, and the memory that its process
came to hold beyond what importing the package takes. Ends with 1 where there was a failure, whose inputs are left in
--failures.
"""

import argparse
import concurrent.futures
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import describe_machine
from mmkp_jax.runtime.escape import for_file_name
from tests.fuzz.harness import SECONDS, fuzz, peak_memory
from tests.fuzz.targets import TARGETS

ROUND = 20_000
"""Inputs of one process for a target of share 1: bounds the loss by a crash, and shows leaks."""


def feed(number: int, first: int, count: int, seed: int, failures: Path) -> None:
    """Feeds inputs to one target in this process, and prints its outcome for `main`."""
    target, before = TARGETS[number], peak_memory()
    outcome = fuzz(target, range(first, first + count), seed)
    for each in outcome.failures:
        failures.mkdir(parents=True, exist_ok=True)
        (failures / f"{for_file_name(target.name)}-{each.number}").write_bytes(each.data)
        print(f"{target.name}, input {each.number}: {each.what}", file=sys.stderr)
    print(outcome.inputs, outcome.refused, outcome.failed, outcome.slowest, peak_memory() - before)


def run_round(job: tuple[int, int, int], seed: int, failures: Path) -> tuple[int, list[float]]:
    """(target, [inputs, refused, failed, slowest, memory]) of one process; a process that dies is a failure."""
    number, first, count = job
    command = [sys.executable, "-m", "benchmarks.soak_fuzz", f"--feed={number},{first},{count}", f"--seed={seed}"]
    limit = 120 + count * 0.5 + SECONDS
    try:
        done = subprocess.run([*command, f"--failures={failures}"], capture_output=True, text=True, timeout=limit)
        print(done.stderr, end="", file=sys.stderr, flush=True)
        if done.returncode == 0:
            return number, [float(each) for each in done.stdout.split()[-5:]]
        what = f"its process ended with {done.returncode}"
    except subprocess.TimeoutExpired:
        what = f"its process did not end within {limit:.0f} s"
    print(f"{TARGETS[number].name}, inputs {first} to {first + count - 1}: {what}", file=sys.stderr, flush=True)
    return number, [count, 0, 1, 0, 0]


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--inputs", type=int, default=1_000_000, help="inputs in all, divided by the targets' shares")
    flags.add_argument("--seed", type=int, default=1)
    flags.add_argument("--failures", type=Path, default=Path("runs/fuzz"))
    flags.add_argument("--feed", help=argparse.SUPPRESS)
    given = flags.parse_args()
    if given.feed:
        feed(*map(int, given.feed.split(",")), given.seed, given.failures)
        return 0
    each = given.inputs / sum(target.share for target in TARGETS)
    jobs = []
    for number, target in enumerate(TARGETS):
        count, most = -(-each * target.share // 1), max(1, int(ROUND * min(target.share, 10)))
        jobs += [(number, first, int(min(most, count - first))) for first in range(0, int(count), most)]
    jobs.sort(key=lambda job: job[1])  # so that every target is tried early
    started, totals = time.perf_counter(), [[0.0] * 5 for _ in TARGETS]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, found in pool.map(lambda job: run_round(job, given.seed, given.failures), jobs):
            old = totals[number]
            totals[number] = [*(a + b for a, b in zip(old[:3], found, strict=False)), *map(max, old[3:], found[3:])]
    print(describe_machine())
    print(f"{'target':40} {'inputs':>9} {'refused':>9} {'failed':>7} {'slowest s':>9} {'more MB':>8}")
    for target, (inputs, refused, failed, slowest, memory) in zip(TARGETS, totals, strict=True):
        print(f"{target.name:40} {inputs:9,.0f} {refused:9,.0f} {failed:7,.0f} {slowest:9.2f} {memory / 1e6:8,.0f}")
    inputs, refused, failed = (sum(row[column] for row in totals) for column in range(3))
    seconds = time.perf_counter() - started
    peak = max(row[4] for row in totals) / 1e6
    print(
        f"in all {inputs:,.0f} inputs, {refused:,.0f} refused, {failed:,.0f} failed, {peak:,.0f} MB, {seconds:,.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
