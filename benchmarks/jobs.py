"""Runs commands that can be interrupted and resumed, some at a time, each on cores of its own."""

import os
import queue
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[1]


class Job(Protocol):
    """A command and what it leaves."""

    @property
    def name(self) -> str:
        """Its name on the terminal."""

    @property
    def workdir(self) -> Path:
        """What it writes; its log is next to it."""

    @property
    def complete(self) -> bool:
        """Whether it need not run again."""

    def command(self) -> list[str]:
        """The command that starts or resumes it."""


def run_all(jobs: Sequence[Job], at_a_time: int) -> None:
    """Runs those that are not complete; where that ends early, they can resume.

    Raises:
        OSError: one cannot be started, or its log cannot be written; the others are stopped, too.
        KeyboardInterrupt: by Ctrl-C and SIGTERM, when all have stopped.
    """
    cores: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    for share_of_cores in _split(sorted(os.sched_getaffinity(0)), at_a_time):
        cores.put(share_of_cores)
    children: list[subprocess.Popen] = []

    def run(job: Job) -> str:
        own, start = cores.get(), time.perf_counter()
        try:
            os.sched_setaffinity(0, own)  # of this thread, and so of the process it starts
            job.workdir.parent.mkdir(parents=True, exist_ok=True)
            with Path(f"{job.workdir}.log").open("ab") as log:
                # a session of its own: Ctrl-C reaches it only from here, as a second one would interrupt its saving
                child = subprocess.Popen(job.command(), cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
                children.append(child)
                status = child.wait()
        finally:
            cores.put(own)
        took = f"{time.perf_counter() - start:,.0f} s"
        return f"{job.name}: {took if status == 0 else f'ended with {status} after {took}, see {log.name}'}"

    left = [job for job in jobs if not job.complete]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadPoolExecutor(at_a_time) as pool:
        try:
            for number, done in enumerate(as_completed([pool.submit(run, job) for job in left]), 1):
                print(f"{number} of {len(left)}: {done.result()}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.terminate()
            raise


def _split(cores: Sequence[int], parts: int) -> list[set[int]]:
    return [set(cores[part::parts]) or {cores[part % len(cores)]} for part in range(parts)]
