"""Processor seconds of each command's `--help`, and of mistakes.

    python -m benchmarks.startup [--rounds=5]

Each is a process of its own, Python's start included; the median over the rounds, after one that fills the caches.
"""

import argparse
import os
import statistics
import subprocess
import sys

from benchmarks.machine import describe_machine
from mmkp_jax.__main__ import commands

MISTAKES = {
    "main, a mistyped key": ("main", "--config=dyncot", "--config.gama=0.3"),
    "plan, a mistyped key": ("plan", "--config=dyncot", "--config.gama=0.3", "--topology=v5e:4x4"),
    "an unknown command": ("mian",),
}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    calls = {"the list of commands": ()} | {f"{name} --help": (name, "--help") for name in commands()} | MISTAKES
    print(f"{describe_machine()}; Python alone: {seconds(['-c', 'pass'], rounds):.2f} s\n")
    print("| | processor seconds |\n| --- | --- |")
    for name, arguments in calls.items():
        print(f"| {name} | {seconds(['-m', 'mmkp_jax', *arguments], rounds):.2f} |", flush=True)


def seconds(arguments: list[str], rounds: int) -> float:
    """The median processor seconds of Python with these arguments."""
    return statistics.median([_once(arguments) for _ in range(rounds + 1)][1:])


def _once(arguments: list[str]) -> float:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, *arguments], **quiet)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 2):
        raise RuntimeError(f"python {' '.join(arguments)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
