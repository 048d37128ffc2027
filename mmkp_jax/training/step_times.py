"""Seconds of each step, by when its results were ready: it does not matter when the host fetches or writes them."""

import contextlib
import queue
import threading
import time
from typing import Any

import jax

from mmkp_jax.training.goodput import Goodput


class StepTimes:
    """Watches steps end, in a thread, and gives the seconds of each.

    A step's clock starts when the step before it has ended; or later, when what was no step's (a checkpoint, an
    evaluation) had ended before its call. So its wait for data is its own. The first step's call compiles, and its
    seconds are not known.
    """

    def __init__(self, goodput: Goodput):
        self._goodput, self._waited, self._before = goodput, 0.0, None
        self._called: dict[int, tuple[float, float]] = {}
        self._ended: dict[int, queue.SimpleQueue[float]] = {}
        self._to_watch: queue.SimpleQueue[tuple[queue.SimpleQueue[float], Any]] = queue.SimpleQueue()
        threading.Thread(target=self._watch, daemon=True).start()

    def called(self, step: int, results: Any) -> None:
        """Takes arrays that a step gives, right after its call."""
        waited = self._goodput.of("data")
        self._called[step] = waited - self._waited, self._goodput.idle_until
        self._waited = waited
        self._ended[step] = queue.SimpleQueue()
        self._to_watch.put((self._ended[step], results))

    def has_ended(self, step: int) -> bool:
        """Whether `of` would not wait."""
        return not self._ended[step].empty()

    def of(self, step: int) -> dict[str, float]:
        """`seconds`, and the share of them that the host waited for data; NaN for the first step.

        Asked for once a step, in the steps' order; waits for the step's end.
        """
        ended, (waited, idle_until) = self._ended.pop(step).get(), self._called.pop(step)
        seconds = step_seconds(self._before, idle_until, ended)
        self._before = ended
        return {"seconds": seconds, "data_wait_share": min(waited / seconds, 1.0)}

    def _watch(self) -> None:
        while True:
            ended, results = self._to_watch.get()
            with contextlib.suppress(Exception):  # whoever fetches the results is shown it
                jax.block_until_ready(results)
            ended.put(time.perf_counter())
            del results  # the next may be long in coming


def step_seconds(before: float | None, idle_until: float, ended: float) -> float:
    """Seconds of a step, from moments of one clock; NaN where they cannot be known.

    Args:
        before: the end of the step before; None for the first.
        idle_until: the end of what was last done before its call that was no step's.
    """
    seconds = ended - max(before, idle_until) if before is not None else 0.0
    return seconds if seconds > 0 else float("nan")
