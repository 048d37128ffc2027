"""Lines of untrusted text files of any size: split at line feeds alone, in bounded memory."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.limits import FILE, LINE

BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line of a file."""

    number: int
    """Line number, from 1."""
    content: bytes
    """The line without its line feed; empty where `too_long`."""
    too_long: bool = False
    """Whether it has more bytes than `limits.LINE`, and was skipped."""


def lines_of(file: Path, hint: str = "check the path") -> Iterator[Line]:
    """Yields the lines of a file, decompressed if it is `.gz`; memory does not grow with a line's length.

    A byte order mark, and a carriage return before a line feed, are removed.

    Raises:
        InputError: the file cannot be read, or its compression is damaged.
    """
    most, number = LINE.bytes(), 0
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            while line := opened.readline(most + 1):
                number += 1
                too_long = len(line) > most and not line.endswith(b"\n")
                while too_long and line and not line.endswith(b"\n"):
                    line = opened.readline(most)
                if number == 1:
                    line = line.removeprefix(BOM)
                yield Line(number, b"" if too_long else line.removesuffix(b"\n").removesuffix(b"\r"), too_long)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is not a gzip file, or is damaged"
        raise InputError(f"cannot be read ({reason})", str(file), hint) from None


def read_bytes(file: Path, hint: str = "check the path") -> bytes:
    """The content of a file, decompressed if it is `.gz`.

    Raises:
        InputError: it cannot be read, or is larger than `limits.FILE`.
    """
    most = FILE.bytes()
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            content = opened.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is not a gzip file, or is damaged"
        raise InputError(f"cannot be read ({reason})", str(file), hint) from None
    if len(content) > most:
        raise FILE.error(str(file))
    return content


def read_text(file: Path, hint: str = "check the path") -> str:
    """The text of a UTF-8 file, without a byte order mark; raises as `read_bytes`, and where it is not UTF-8."""
    content = read_bytes(file, hint)
    try:
        return content.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise InputError("is not UTF-8", f"{file}:{line}", "save it as UTF-8") from None


def read_lines(file: Path, hint: str = "check the path") -> list[str]:
    """The lines of a UTF-8 file, without line feeds; none for an empty file; raises as `read_text`."""
    text = read_text(file, hint)
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
