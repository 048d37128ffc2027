"""Reads the lines of a store's file, and moves damaged ones out without losing any."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.atomic import renaming
from mmkp_jax.runtime.limits import ANSWER

BEGINNINGS = (b'{"id": "', b'{"batch": "', b'{"out": "', b'{"lost": "', b'{"uncharged": "')
"""Prefixes of a store's lines."""
LONGER = 8, 1 << 20
"""Factor and offset of a row's largest size over an answer's, as JSON's escapes take room."""
BLOCK = 1 << 20  # bytes


class StoredLine(NamedTuple):
    """A line of a store's file."""

    number: int
    """Line number, from 1."""
    start: int
    end: int
    """Byte offsets of the line's start and end in the file."""
    row: dict[str, Any] | None
    """The parsed row; None where the line is not a JSON object."""
    complete: bool = True
    """False for a last line that a kill cut off."""


class DamagedLine(Exception):
    """Raised for a line that is not a row of a store."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number

    def error(self, file: Path) -> InputError:
        """The error that the user sees."""
        hint = f"add --repair: it moves such lines to {damaged_file(file).name}, and keeps all other answers"
        return InputError("this line is not an answer of an endpoint", f"{file}:{self.number}", hint)


def damaged_file(file: Path) -> Path:
    """Path of a store's damaged lines, next to it."""
    return file.with_name(f"{file.name}.damaged")


def lines_in(descriptor: int) -> Iterator[StoredLine]:
    """Yields the lines of an open store; adds a missing line feed after a complete last row."""
    times, more = LONGER
    most, start, number = times * ANSWER.bytes() + more, 0, 0
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        while line := file.readline(most):
            number, ended, size = number + 1, line.endswith(b"\n"), len(line)
            too_long = size == most and not ended
            while too_long and line and not line.endswith(b"\n"):
                line = file.readline(BLOCK)
                size += len(line)
            row = None if too_long else _row(line)
            if row is not None and not ended and _is_beginning(line):
                os.write(descriptor, b"\n")
                size += 1
            cut_off = row is None and not ended and not too_long and _is_beginning(line)
            yield StoredLine(number, start, start + size, row, not cut_off)
            start += size


def _is_beginning(line: bytes) -> bool:
    return any(line.startswith(each) or each.startswith(line) for each in BEGINNINGS)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def repair_file(descriptor: int, file: Path, is_row: Callable[[dict[str, Any]], bool]) -> tuple[int, int]:
    """Moves every damaged line of a store to `damaged_file`, then replaces the store by the rest.

    Args:
        descriptor: descriptor of the open and locked store; it is closed.

    Returns:
        The descriptor of the new file, open and locked, and the number of lines moved.

    Raises:
        InputError: no line is a row, so the file is not a store.
        OSError: it cannot be written; the store is unchanged.
    """
    kept, damaged = [], []
    for line in lines_in(descriptor):
        sound = not line.complete or (line.row is not None and is_row(line.row))
        (kept if sound else damaged).append((line.start, line.end))
    if not kept:
        raise InputError("no line of it is an answer of an endpoint", str(file), "check --store")
    aside = os.open(damaged_file(file), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        _copy(descriptor, aside, damaged)
    finally:
        os.close(aside)
    with renaming(file) as part:
        made = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        try:
            fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _copy(descriptor, made, kept)
        except BaseException:
            os.close(made)
            raise
    os.close(descriptor)
    return made, len(damaged)


def _copy(source: int, target: int, spans: list[tuple[int, int]]) -> None:
    """Appends spans of bytes from one file to another, and syncs."""
    for place, end in spans:
        while place < end:
            block = os.pread(source, min(BLOCK, end - place), place)
            if not block:
                break
            place += len(block)
            while block:
                block = block[os.write(target, block) :]
    os.fsync(target)
