"""Where a run's time goes."""

import contextlib
import time
from collections.abc import Iterator
from typing import Literal, get_args

Kind = Literal["compile", "data", "checkpoint", "evaluation"]


class Goodput:
    """Adds up the seconds of each kind; what is left of the time since it was made went into steps."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = dict.fromkeys(get_args(Kind), 0.0)
        self._began = time.perf_counter()
        self.idle_until = self._began
        """When something last ended that was no step's, nor its wait for data."""

    @contextlib.contextmanager
    def spending(self, kind: Kind) -> Iterator[None]:
        """Counts what is done meanwhile as of that kind; it does not nest."""
        start = time.perf_counter()
        try:
            yield
        finally:
            now = time.perf_counter()
            self._spent[kind] += now - start
            if kind != "data":
                self.idle_until = now

    def of(self, kind: Kind) -> float:
        """Seconds of that kind so far."""
        return self._spent[kind]

    def line(self) -> str:
        """Each kind's share of the time, the steps' first."""
        total = time.perf_counter() - self._began
        shares = {"steps": total - sum(self._spent.values()), **self._spent}
        told = ", ".join(f"{seconds / total:.0%} {kind}" for kind, seconds in shares.items())
        return f"time: {told}, of {total / 60:.1f} min"
