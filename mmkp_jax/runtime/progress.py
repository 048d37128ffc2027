"""A progress bar as wide as the terminal: what is done now, how far it is, the time left, and fields that have room.

Where stderr is no terminal but a file or a pipe, it is a line now and then instead, which a log can hold.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from tqdm import tqdm

BAR = 10
"""Characters of the bar itself; the rest of the line is for words."""

TIMED = 2
"""Units after which the time left is shown: the first one is often compiled for, and says nothing of the next."""

LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""

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
            bar_format=_format(timed=False), delay=delay, file=_stderr(), mininterval=_interval(),
            desc=self._words(first),
        )  # fmt: skip

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
        self._bar.set_postfix_str(", ".join(fields), refresh=width is not None)

    def _show(self, what: str) -> None:
        refresh = self._at_once and (bool(what) or _columns() is not None)
        self._bar.set_description_str(self._words(what), refresh=refresh)

    def _words(self, what: str) -> str:
        words = ": ".join(filter(None, (self._label, f"{what}…" if what else "")))
        return f"{words} " if words else ""


class Waiting(contextlib.AbstractContextManager):
    """A line on stderr that says what is waited for, and for how long; for work that cannot be counted."""

    def __init__(self, label: str):
        self._label, self._what = label, ""
        self._bar = tqdm(
            bar_format="{desc} [{elapsed}]", leave=False, dynamic_ncols=True, file=_stderr(), desc=f"{label}…"
        )

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, what: str) -> None:
        """Says what is waited for, again on a terminal, for its seconds; elsewhere when it is something new."""
        if what != self._what or _columns() is not None:
            self._bar.set_description_str(f"{self._label}: {what}…")
        self._what = what


class _Lines:
    """A file to which a bar is drawn: each drawing is a line of its own, and nothing is wiped out."""

    def __init__(self, file: TextIO):
        self._file, self.encoding = file, file.encoding

    def write(self, text: str) -> None:
        for line in re.split(r"[\r\n]+", text):
            if line.strip():
                self._file.write(f"{line.rstrip()}\n")

    def flush(self) -> None:
        self._file.flush()


def _stderr() -> Any:
    return _Lines(sys.stderr) if _columns() is None else sys.stderr


def _interval() -> float:
    return LINE_EVERY if _columns() is None else 0.1  # as tqdm's own


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
