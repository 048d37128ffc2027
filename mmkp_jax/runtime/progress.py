"""A progress bar as wide as the terminal: what is done now, how far it is, the time left, and fields that have room."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from tqdm import tqdm

BAR = 10
"""Characters of the bar itself; the rest of the line is for words."""

TIMED = 2
"""Units after which the time left is shown: the first one is often compiled for, and says nothing of the next."""

SHOWN_AFTER = 5.0
"""Seconds after which work that is mostly short has a bar."""


class Progress(contextlib.AbstractContextManager):
    """A bar on stderr.

    Args:
        total: number of units.
        units: their name.
        initial: units that are done already.
        label: what the bar is of.
        first: what is done before the first unit, such as compiling; not counted in the time left.
        leave: whether the bar stays when it is closed.
        disable: no bar at all.
        delay: seconds without a bar; what takes less has none.
    """

    def __init__(
        self,
        total: int,
        *,
        units: str,
        initial: int = 0,
        label: str = "",
        first: str = "",
        leave: bool = True,
        disable: bool = False,
        delay: float = 0,
    ):
        self._label, self._begun, self._first, self._at_once = label, initial, first, not delay
        self._bar = tqdm(
            total=total, initial=initial, unit=units, leave=leave, disable=disable, smoothing=0.1, dynamic_ncols=True,
            bar_format=_format(timed=False), delay=delay,
        )  # fmt: skip
        self._show(first)

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, units: int = 1) -> None:
        """Counts units as done."""
        if self._first:
            self._first = ""
            self._show("")
            self._bar.unpause()
        self._bar.update(units)
        if self._bar.n - self._begun >= TIMED:
            self._bar.bar_format = _format(timed=True)

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Shows what is done in the block instead of units, and does not count it in the time left."""
        self._show(what)
        try:
            yield
        finally:
            self._show("")
            self._bar.unpause()

    def fields(self, fields: Sequence[str]) -> None:
        """Shows the first of these fields, as many as the terminal has room for; all where there is no terminal."""
        width = _columns()
        if width is not None:
            bare = self._bar.format_meter(**{**self._bar.format_dict, "postfix": None, "ncols": None})
            room = width - len(bare) - 1
            fits = [number for number in range(len(fields) + 1) if len(", ".join(["", *fields[:number]])) <= room]
            fields = fields[: fits[-1] if fits else 0]
        self._bar.set_postfix_str(", ".join(fields))

    def _show(self, what: str) -> None:
        words = ": ".join(filter(None, (self._label, f"{what}…" if what else "")))
        self._bar.set_description_str(f"{words} " if words else "", refresh=self._at_once)


class Waiting(contextlib.AbstractContextManager):
    """A line on stderr that says what is waited for, and for how long; for work that cannot be counted."""

    def __init__(self, label: str):
        self._label, self._what = label, ""
        self._bar = tqdm(bar_format="{desc} [{elapsed}]", leave=False, dynamic_ncols=True)

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, what: str) -> None:
        """Says what is waited for, again on a terminal, for its seconds; elsewhere when it is something new."""
        if what != self._what or _columns() is not None:
            self._bar.set_description_str(f"{self._label}: {what}…")
        self._what = what


def _format(*, timed: bool) -> str:
    left = "<{remaining}" if timed else ""
    return (
        f"{{desc}}{{percentage:3.0f}}%|{{bar:{BAR}}}| {{n_fmt}}/{{total_fmt}} {{unit}} [{{elapsed}}{left}{{postfix}}]"
    )


def _columns() -> int | None:
    """Width of the terminal on stderr; None where it is none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return None
