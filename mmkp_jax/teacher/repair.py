"""The lines of a store as they are on the disk, and how damaged ones are taken out without losing any."""

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
"""What the lines of a store begin with."""
LONGER = 8, 1 << 20
"""A row may have so many times the bytes of an answer, as JSON's escapes take room, and so many more."""
BLOCK = 1 << 20  # bytes


class StoredLine(NamedTuple):
    """A line of a store's file."""

    number: int
    """From 1."""
    start: int
    end: int
    """Bytes, from the file's beginning."""
    row: dict[str, Any] | None
    """None where it is no JSON object."""
    complete: bool = True
    """Whether it is not a last line that a kill cut off."""


class DamagedLine(Exception):
    """A line that is no row of a store."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number

    def error(self, file: Path) -> InputError:
        """The one line about it."""
        hint = f"add --repair: it moves such lines to {damaged_file(file).name}, and keeps all other answers"
        return InputError("this line is no answer of an endpoint", f"{file}:{self.number}", hint)


def damaged_file(file: Path) -> Path:
    """Where a repair puts the damaged lines of a store: next to it."""
    return file.with_name(f"{file.name}.damaged")


def lines_in(descriptor: int) -> Iterator[StoredLine]:
    """Yields the lines of an open store; a complete row that lacks its line feed is given one."""
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
    """Takes every damaged line out of a store into `damaged_file`, then puts the rest in its place.

    Args:
        descriptor: of the open and locked store, which is closed.

    Returns:
        The descriptor of the new file, open and locked, and how many lines were taken out.

    Raises:
        InputError: no line is a row, so that the file is no store.
        OSError: it cannot be written; the store is as it was.
    """
    kept, damaged = [], []
    for line in lines_in(descriptor):
        sound = not line.complete or (line.row is not None and is_row(line.row))
        (kept if sound else damaged).append((line.start, line.end))
    if not kept:
        raise InputError("no line of it is an answer of an endpoint", str(file), "name the --store that was meant")
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
    """Appends those bytes of a file to another, on the disk."""
    for place, end in spans:
        while place < end:
            block = os.pread(source, min(BLOCK, end - place), place)
            if not block:
                break
            place += len(block)
            while block:
                block = block[os.write(target, block) :]
    os.fsync(target)
