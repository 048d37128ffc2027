"""Guards of a run: one ends it after too many steps that are not finite, one when a step or an answer hangs."""

import contextlib
import faulthandler
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mmkp_jax.errors import LOST, InputError
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.hosts import is_writer
from mmkp_jax.training.workdir import cut_back


class SkippedSteps:
    """`skipped.jsonl`: a line for each step whose loss or gradient was not finite, with its posts' ids.

    Args:
        most: how many in a row end the run; 0 for no limit.
        step: the step that the run resumes from.
    """

    def __init__(self, workdir: Path, *, most: int, step: int):
        self._file, self._most, self._in_a_row = workdir / "skipped.jsonl", most, 0
        if is_writer():
            cut_back(self._file, step)
        self.steps = len(self._file.read_text(encoding="utf-8").splitlines()) if self._file.exists() else 0
        """Number of skipped steps over all starts of the run."""

    def record(self, step: int, metrics: Mapping[str, float], posts: Callable[[], Sequence[str]]) -> None:
        """Records a step.

        Args:
            step: its number.
            metrics: its metrics.
            posts: returns the ids of its posts.

        Raises:
            InputError: too many in a row were not finite.
        """
        self._in_a_row = self._in_a_row + 1 if metrics["skipped"] else 0
        if not self._in_a_row:
            return
        self.steps += 1
        if is_writer():
            values = {
                name: str(metrics[name]) for name in ("loss", "grad_norm")
            }  # "nan" and "inf" are not JSON numbers
            with self._file.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"step": step, **values, "posts": list(posts())}, ensure_ascii=False) + "\n")
        if self._most and self._in_a_row >= self._most:
            what = f"the loss or gradient of {self._in_a_row} steps in a row, up to step {step:,}, is not finite"
            hint = "check their posts, or give a lower config.learning_rate; the run resumes from its last checkpoint"
            raise InputError(what, str(self._file), hint)


COMPILING_SECONDS = 3600
"""Least time in seconds that the first step or answer may take, as it compiles."""


class Watchdog(contextlib.AbstractContextManager):
    """Ends the process when no step or answer ends for `seconds` (0: never); dumps all stacks to `stacks-{host}.txt`.

    It watches only inside `counting`.
    """

    def __init__(self, workdir: Path, seconds: float, host: int = 0):
        self._file, self._seconds = workdir / f"stacks-{host}.txt", seconds
        self._deadline, self._allowed, self._what = math.inf, seconds, ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    @contextlib.contextmanager
    def counting(self, what: str) -> Iterator[None]:
        """Inside the block, each `what` (such as "step") has to end in time, as `beat` reports.

        The first one, which compiles, has at least `COMPILING_SECONDS`.
        """
        self._what = what
        self._allow(max(self._seconds, COMPILING_SECONDS))
        try:
            yield
        finally:
            self._deadline = math.inf

    def beat(self) -> None:
        """Reports that one has ended."""
        self._allow(self._seconds)

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Pauses the watch inside the block, except where another `counting` is inside it."""
        what, self._deadline = self._what, math.inf
        try:
            yield
        finally:
            self._what = what
            self._allow(self._seconds)

    def _allow(self, seconds: float) -> None:
        self._allowed, self._deadline = seconds, time.monotonic() + seconds

    def _watch(self) -> None:
        while not self._over.wait(min(self._seconds / 10, 10)):
            if time.monotonic() > self._deadline:
                self._end()

    def _end(self) -> None:
        try:
            line = f"no {self._what} ended for {self._allowed:g} s; all stacks are in {self._file}"
            print(
                f"\n{for_terminal(line)}; started again, the run continues from its last checkpoint",
                file=sys.stderr,
                flush=True,
            )
            with self._file.open("w", encoding="utf-8") as out:
                faulthandler.dump_traceback(out, all_threads=True)
        finally:
            os._exit(LOST)  # without waiting for what hangs
