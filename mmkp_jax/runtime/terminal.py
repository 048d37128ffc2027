"""Terminal output: any encoding, closed pipes, and tables."""

import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from mmkp_jax.runtime.escape import for_terminal

UNREAD = 141
"""Exit status where nothing reads the output any more (`… | head`), as a shell reports SIGPIPE."""


def escape_unencodable() -> None:
    """Makes stdout and stderr escape characters that their encoding lacks (`\\u03b3`), rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def drop_unread_output() -> bool:
    """Whether a stream's reader is gone; the rest of its output is then dropped without an error."""
    unread = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
    for stream in unread:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(unread)


def aligned(rows: Sequence[Sequence[str]], is_words: Callable[[int], bool]) -> list[str]:
    """One line per row, columns two spaces apart: words are left-aligned, numbers right-aligned."""
    rows = [[for_terminal(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if is_words(column) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def without_repeats(rows: Sequence[Sequence[str]], columns: int = 1) -> list[list[str]]:
    """The rows, where a cell of the first `columns` is blank if it and those before it repeat the row above."""
    rows = [list(row) for row in rows]
    above = [[], *rows[:-1]]
    return [
        [*("" if row[: i + 1] == last[: i + 1] else row[i] for i in range(columns)), *row[columns:]]
        for row, last in zip(rows, above, strict=False)  # also without rows
    ]


def _has_no_reader(stream: TextIO) -> bool:
    try:
        file = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
