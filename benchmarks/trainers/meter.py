"""Seconds, processor seconds and peak memory of a stretch of work."""

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Meter(contextlib.AbstractContextManager):
    """Measures the block; `taken` then has `seconds`, `processor` (of all threads) and `memory` (bytes at most).

    Args:
        of_device: the peak of the device's memory in bytes, or None where that is the process's own.
    """

    def __init__(self, of_device: Callable[[], int | None]):
        self._of_device, self.taken = of_device, {}

    def __enter__(self) -> "Meter":
        reset_peak()
        self._start, self._busy = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        seconds, processor = time.perf_counter() - self._start, time.process_time() - self._busy
        memory = self._of_device()
        self.taken: dict[str, Any] = {
            "seconds": seconds,
            "processor": processor,
            "memory": peak_of_process() if memory is None else memory,
        }


def reset_peak() -> None:
    """Begins to measure the process's peak anew, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_of_process() -> int | None:
    """The most bytes of physical memory that the process held since `reset_peak`; None where it is not known."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
