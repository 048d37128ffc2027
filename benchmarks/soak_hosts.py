"""Loss of a host in a job of two: kill -9 at each moment, and how the other then ends.

    python -m benchmarks.soak_hosts [--moments=NAME,…] [--victims=0,1] [--slow_seconds=180] [--keep=DIR]

Two processes on loopback, pocket with few posts. Printed is a row for each moment and victim: seconds until the other
ended (of `never joins`, from its start, `--join_seconds=20` included), its status, and what it said last. Any other
status than 76, or more than 60 seconds (80 of `never joins`), fails the benchmark. In `slow` nobody is killed: host 1
stops for `--slow_seconds` while it compiles, and both have to end with 0.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import describe_machine
from mmkp_jax.errors import LOST
from tests.support.ports import free_port
from tests.support.small_pocket import command, environment, small_pocket

JOIN_SECONDS, WITHIN_SECONDS = 20, 60

FLAGS = ("--config.global_batch_size=2", "--config.mesh.fsdp=2", "--config.answer_tokens=2", "--config.eval_every=4")
"""Flags of every run: eight steps, two evaluations on valid, and the test at the end."""


class Ending(NamedTuple):
    """The end of the host that was not killed."""

    seconds: float
    status: int
    line: str


class Host:
    """A process of the job, whose stderr is read as it comes.

    Args:
        number: which, from 0.
    """

    def __init__(self, number: int, pocket: Path, workdir: Path, port: int, hosts: int):
        job = (f"--coordinator=127.0.0.1:{port}", f"--num_processes={hosts}", f"--process_id={number}")
        line = command(pocket, f"--workdir={workdir}", f"--join_seconds={JOIN_SECONDS}", *job, *FLAGS)
        line += ["--config.total_steps=8", "--config.checkpoint_every=2"]
        variables = environment() | {"JAX_LOG_COMPILES": "1", "JAX_ENABLE_COMPILATION_CACHE": "0"}
        self.process = subprocess.Popen(
            line, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.said.append(line)

    def wait(self, seconds: float) -> int:
        """The exit status; the process is killed when it takes longer."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._reader.join(10)
        return status

    def last_line(self) -> str:
        """The last line that it printed."""
        return next((line.strip() for line in reversed(self.said) if line.strip()), "")


def _has_said(words: str) -> Callable[[list[Host], Path], bool]:
    return lambda hosts, _: any(words in line for host in hosts for line in list(host.said))


def _has_file(pattern: str) -> Callable[[list[Host], Path], bool]:
    return lambda _, workdir: any(True for _ in workdir.glob(pattern))


def _has_logged(steps: int) -> Callable[[list[Host], Path], bool]:
    def logged(_: list[Host], workdir: Path) -> bool:
        file = workdir / "metrics.jsonl"
        return file.exists() and file.read_bytes().count(b"\n") >= steps

    return logged


MOMENTS: dict[str, Callable[[list[Host], Path], bool]] = {
    "joined": _has_file("config.json"),
    "compiling": _has_said("Compiling jit(train_step)"),
    "training": _has_logged(1),
    "evaluating": _has_said("Compiling jit(filled)"),
    "decoding": _has_said("Compiling jit(decode)"),
    "saving": _has_file("checkpoints/*tmp*"),
    "exporting": _has_file("export/*"),
}
"""Condition of each moment, by its name."""

NEVER, HALF, SLOW = "never joins", "dies before all joined", "slow"


def end_of_other(moment: str, victim: int, pocket: Path, workdir: Path) -> Ending:
    """Runs the job until the moment, kills the victim, and waits for the other."""
    port = free_port()
    began = time.monotonic()
    if moment == NEVER:
        other = Host(1 - victim, pocket, workdir, port, 2)
        status = other.wait(JOIN_SECONDS + 2 * WITHIN_SECONDS)
        return Ending(time.monotonic() - began, status, other.last_line())
    if moment == HALF:  # of three hosts, of which the third never joins
        hosts = [Host(number, pocket, workdir, port, 3) for number in (0, 1)]
        time.sleep(12)
    else:
        hosts = [Host(number, pocket, workdir, port, 2) for number in (0, 1)]
        while not MOMENTS[moment](hosts, workdir):
            if any(host.process.poll() is not None for host in hosts):
                statuses = [host.wait(WITHIN_SECONDS) for host in hosts]
                raise SystemExit(f"the job ended before {moment} with {statuses}: {hosts[0].last_line()}")
            time.sleep(0.005)
    hosts[victim].process.kill()
    began = time.monotonic()
    status = hosts[1 - victim].wait(2 * WITHIN_SECONDS)
    return Ending(time.monotonic() - began, status, hosts[1 - victim].last_line())


def slow_host(seconds: float, pocket: Path, workdir: Path) -> list[int]:
    """Both statuses of a job of which one host stops while it compiles."""
    port = free_port()
    hosts = [Host(number, pocket, workdir, port, 2) for number in (0, 1)]
    while not MOMENTS["compiling"](hosts[1:], workdir):
        time.sleep(0.005)
    hosts[1].process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    hosts[1].process.send_signal(signal.SIGCONT)
    statuses = [host.wait(600) for host in hosts]
    if any(statuses):
        print("".join(hosts[0].said[-20:] + hosts[1].said[-20:]), file=sys.stderr)
    return statuses


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", default=",".join([NEVER, HALF, *MOMENTS, SLOW]))
    parser.add_argument("--victims", default="0,1")
    parser.add_argument("--slow_seconds", type=float, default=180)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    print(describe_machine(), flush=True)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        root = given.keep or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        pocket = root / "pocket" if (root / "pocket").exists() else small_pocket(root)
        print("| killed while it | host | s until the other ended | status | its last line |")
        print("| --- | ---: | ---: | ---: | --- |", flush=True)
        for moment in given.moments.split(","):
            if moment == SLOW:
                statuses = slow_host(given.slow_seconds, pocket, root / "run-slow")
                print(f"| (stopped for {given.slow_seconds:g} s) | 1 | – | {statuses} | |", flush=True)
                failed += [SLOW] * any(statuses)
                continue
            for victim in map(int, given.victims.split(",")):
                ended = end_of_other(moment, victim, pocket, root / f"run-{moment.replace(' ', '-')}-{victim}")
                print(f"| {moment} | {victim} | {ended.seconds:.1f} | {ended.status} | {ended.line} |", flush=True)
                most = WITHIN_SECONDS + JOIN_SECONDS * (moment == NEVER)
                failed += [f"{moment} {victim}"] * (ended.status != LOST or ended.seconds > most)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
