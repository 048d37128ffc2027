"""The JSON objects of a file: one a line, or all in one array; a `BadLine` for what is not one."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmkp_jax.data.fields import BadLine
from mmkp_jax.errors import InputError
from mmkp_jax.runtime.json_files import parse
from mmkp_jax.runtime.limits import LINE
from mmkp_jax.runtime.lines import BOM, Line, lines_of, read_text

HINT = "give the folder or file of the posts"

_BLANK = re.compile(r"[ \t\r\n]*")


def objects_of(file: str | Path) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    """The JSON objects of a file, each with its line from 1, and a `BadLine` for each other line that is not blank.

    A name that ends in `.gz` is unpacked as it is read; in a file `.json`, one array may hold all the objects.

    Raises:
        InputError: the file cannot be read, or is a damaged array, which cannot be read beyond the damage.
    """
    file = Path(file)
    if file.name.removesuffix(".gz").endswith(".json") and _begins(file) == b"[":
        yield from ((number, _object(row)) for number, row in _array_items(read_text(file, HINT), str(file)))
        return
    for line in lines_of(file, HINT):
        if line.too_long or line.content.strip():
            yield line.number, _row(line)


def decoded(line: Line) -> str:
    """The text of a line; `BadLine` where it is too long, or not UTF-8."""
    if line.too_long:
        raise BadLine(LINE.message(), LINE.hint())
    try:
        return line.content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise BadLine("the line is not UTF-8", "save the file as UTF-8") from None


def _row(line: Line) -> dict[str, Any] | BadLine:
    try:
        return _object(parse(decoded(line), ""))
    except BadLine as bad:
        return bad
    except InputError as error:
        return BadLine(f"the line {error.what}".replace("the line its", "its"), "write one JSON object a line")


def _object(row: Any) -> dict[str, Any] | BadLine:
    if isinstance(row, dict):
        return row
    return BadLine("the line is not a JSON object", 'write {"id": …, "text": …, "image": …, "keyphrases": […]}')


def _begins(file: Path) -> bytes:
    """The first character that is not blank; empty where there is none, or the file cannot be read."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            while piece := opened.read(1 << 16):
                if found := piece.removeprefix(BOM).lstrip()[:1]:
                    return found
    except (OSError, EOFError, zlib.error):  # reported when the whole file is read
        pass
    return b""


def _array_items(text: str, file: str) -> Iterator[tuple[int, Any]]:
    decode, line, at = json.JSONDecoder().raw_decode, 1, 0

    def skip_blank(start: int) -> str:
        nonlocal line, at
        end = _BLANK.match(text, start).end()
        line += text.count("\n", at, end)
        at = end
        return text[at : at + 1]

    mark = skip_blank(0)
    while mark in ("[", ","):
        if skip_blank(at + 1) == "]" and mark == "[":
            return
        started = line
        try:
            row, end = decode(text, at)
        except (ValueError, RecursionError):
            break
        yield started, row
        if (mark := skip_blank(end)) == "]":
            return
    raise InputError("the array is not JSON from here on", f"{file}:{line}", "write [{…}, {…}, …]")
