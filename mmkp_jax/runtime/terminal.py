"""Output for terminals: of any encoding, with or without a reader; tables."""

import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from mmkp_jax.runtime.escape import for_terminal

UNREAD = 141
"""The exit status where nothing reads the output any more (`… | head`), as a shell has it after SIGPIPE."""


def escape_unencodable() -> None:
    """Lets stdout and stderr print what their encoding lacks as escapes (`\\u03b3`), in place of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def drop_unread_output() -> bool:
    """Whether a stream's reader has gone; what is still to be written to it is then dropped without an error."""
    unread = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
    for stream in unread:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(unread)


def aligned(rows: Sequence[Sequence[str]], is_words: Callable[[int], bool]) -> list[str]:
    """A line a row, columns two spaces apart: those of words set to the left, the others, of numbers, to the right."""
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
    """The rows; a cell of the first `columns` is blank where it and those before it are as in the row above."""
    rows = [list(row) for row in rows]
    above = [[], *rows[:-1]]
    return [
        [*("" if row[: i + 1] == last[: i + 1] else row[i] for i in range(columns)), *row[columns:]]
        for row, last in zip(rows, above, strict=False)  # without rows too
    ]


def _has_no_reader(stream: TextIO) -> bool:
    try:
        file = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
