"""What keeps a run from going on in vain: steps that are not finite, and steps that do not end."""

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
from mmkp_jax.hosts import is_writer
from mmkp_jax.workdir import cut_back


class Skipped:
    """`skipped.jsonl`: a line for each step whose loss or gradient was not finite, with its posts' ids.

    Args:
        most: so many in a row end the run; 0 for none.
        step: the run goes on from it.
    """

    def __init__(self, workdir: Path, *, most: int, step: int):
        self._file, self._most, self._in_a_row = workdir / "skipped.jsonl", most, 0
        if is_writer():
            cut_back(self._file, step)
        self.steps = len(self._file.read_text(encoding="utf-8").splitlines()) if self._file.exists() else 0
        """How many were skipped, of all starts of the run."""

    def look(self, step: int, metrics: Mapping[str, float], posts: Callable[[], Sequence[str]]) -> None:
        """Takes note of a step.

        Args:
            posts: gives the ids of the step's posts.

        Raises:
            InputError: too many in a row were not finite.
        """
        self._in_a_row = self._in_a_row + 1 if metrics["skipped"] else 0
        if not self._in_a_row:
            return
        self.steps += 1
        if is_writer():
            values = {name: str(metrics[name]) for name in ("loss", "grad_norm")}  # "nan" and "inf" are no JSON numbers
            with self._file.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"step": step, **values, "posts": list(posts())}, ensure_ascii=False) + "\n")
        if self._most and self._in_a_row >= self._most:
            what = f"the loss or gradient of {self._in_a_row} steps in a row, up to step {step:,}, is not finite"
            mend = "see to their posts, or give a lower config.learning_rate; the run goes on from its last checkpoint"
            raise InputError(what, str(self._file), mend)


class Watchdog(contextlib.AbstractContextManager):
    """Ends the process when no step ends for `seconds` (0: never), with all threads' stacks in `stacks-{host}.txt`."""

    def __init__(self, workdir: Path, seconds: float, host: int = 0):
        self._file, self._seconds = workdir / f"stacks-{host}.txt", seconds
        self._deadline = math.inf
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def beat(self) -> None:
        """A step has ended; the first one, which compiles, may take its time."""
        self._deadline = time.monotonic() + self._seconds

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Does not count what is done meanwhile."""
        before, self._deadline = self._deadline, math.inf
        yield
        self._deadline = math.inf if before == math.inf else time.monotonic() + self._seconds

    def _watch(self) -> None:
        while not self._over.wait(min(self._seconds / 10, 10)):
            if time.monotonic() > self._deadline:
                self._end()

    def _end(self) -> None:
        try:
            told = f"no step ended for {self._seconds:g} s; all stacks are in {self._file}"
            print(f"\n{told}; started again, the run goes on from its last checkpoint", file=sys.stderr, flush=True)
            with self._file.open("w", encoding="utf-8") as out:
                faulthandler.dump_traceback(out, all_threads=True)
        finally:
            os._exit(LOST)  # nothing that hangs is waited for
