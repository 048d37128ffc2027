"""Seconds and peak memory of a stretch of work."""

import contextlib
import re
import time
from pathlib import Path
from typing import Any


class Meter(contextlib.AbstractContextManager):
    """Measures the block; `taken` then has its `seconds` and `memory`, the bytes that the process held at most."""

    def __init__(self):
        self.taken: dict[str, Any] = {}

    def __enter__(self) -> "Meter":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # begins to measure the process's peak anew
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.taken = {"seconds": time.perf_counter() - self._start, "memory": peak_of_process()}


def peak_of_process() -> int | None:
    """The most bytes of physical memory that the process held; None where it is not known."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
