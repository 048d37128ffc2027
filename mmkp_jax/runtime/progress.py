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


class Progress(contextlib.AbstractContextManager):
    """A bar on stderr.

    Args:
        total: number of units.
        initial: units that are done already.
        label: what the bar is of.
        first: what is done before the first unit, such as compiling; not counted in the time left.
        leave: whether the bar stays when it is closed.
        disable: no bar at all.
    """

    def __init__(
        self,
        total: int,
        *,
        unit: str,
        initial: int = 0,
        label: str = "",
        first: str = "",
        leave: bool = True,
        disable: bool = False,
    ):
        self._label, self._begun, self._first = label, initial, first
        self._bar = tqdm(
            total=total, initial=initial, unit=unit, leave=leave, disable=disable, smoothing=0.1, dynamic_ncols=True,
            bar_format=_format(timed=False),
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
        self._bar.set_description_str(f"{words} " if words else "")


def _format(*, timed: bool) -> str:
    left = "<{remaining}" if timed else ""
    return (
        f"{{desc}}{{percentage:3.0f}}%|{{bar:{BAR}}}| {{n_fmt}}/{{total_fmt}} {{unit}}s [{{elapsed}}{left}{{postfix}}]"
    )


def _columns() -> int | None:
    """Width of the terminal on stderr; None where it is none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return None
