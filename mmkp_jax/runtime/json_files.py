"""Untrusted JSON: each fault is one line that names the file, the place and the field."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.limits import LINE
from mmkp_jax.runtime.lines import lines_of, read_text

HINT = "restore the file, or create it again"
DEPTH = 100
"""Deepest nesting of lists and objects, as code that reads a value may recurse."""

_REQUIRED: Any = object()
_NAMES = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


class Fields(NamedTuple):
    """A JSON object and its place; each method reads a field of one type.

    `where` is `FILE` or `FILE:LINE`; `path` is the object's path inside (`data.row`). An absent field gives the
    default; without a default, and for a wrong type, it is an InputError.
    """

    content: Mapping[str, Any]
    where: str
    hint: str = HINT
    path: str = ""

    def text(self, name: str, default: Any = _REQUIRED) -> str:
        """The string under `name`."""
        return self._take(name, default, "text", lambda value: isinstance(value, str))

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        """The boolean under `name`."""
        return self._take(name, default, "true or false", lambda value: isinstance(value, bool))

    def integer(self, name: str, default: Any = _REQUIRED, *, least: int = 0) -> int:
        """The whole number under `name`, from `least` to 2^63 - 1."""
        return self._take(name, default, f"a whole number from {least}", lambda v: is_integer(v) and v >= least)

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        """The finite number under `name`."""
        return self._take(name, default, "a finite number", is_number)

    def texts(self, name: str, default: Any = _REQUIRED) -> list[str]:
        """The list of strings under `name`."""
        return self._take(name, default, "a list of texts", is_texts)

    def numbers(self, name: str, default: Any = _REQUIRED) -> list[float]:
        """The list of finite numbers under `name`."""
        return self._take(
            name, default, "a list of finite numbers", lambda v: isinstance(v, list) and all(map(is_number, v))
        )

    def rows(self, name: str, default: Any = _REQUIRED) -> list["Fields"]:
        """The list of objects under `name`."""
        found = self._take(name, default, "a list of objects", lambda v: isinstance(v, list) and all(map(is_object, v)))
        return [self._inside(f"{name}[{n}]", each) for n, each in enumerate(found)]

    def object(self, name: str, default: Any = _REQUIRED) -> "Fields":
        """The object under `name`."""
        return self._inside(name, self._take(name, default, "an object", is_object))

    def refuse(self, name: str, expected: str) -> NoReturn:
        """Raises the InputError for a missing field or a wrong type."""
        called = f"{self.path}.{name}" if self.path else name
        called = called if len(called) <= 80 else called[:79] + "…"
        if name not in self.content:
            raise InputError(f"has no {called!r}", self.where, self.hint)
        raise InputError(f"{called!r} is {shown(self.content[name])}, not {expected}", self.where, self.hint)

    def _inside(self, name: str, content: Mapping[str, Any]) -> "Fields":
        return self._replace(content=content, path=f"{self.path}.{name}" if self.path else name)

    def _take(self, name: str, default: Any, expected: str, holds: Any) -> Any:
        if name not in self.content and default is not _REQUIRED:
            return default
        if name not in self.content or not holds(self.content[name]):
            self.refuse(name, expected)
        return self.content[name]


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number (booleans are not)."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)
    )


def is_integer(value: Any) -> bool:
    """Whether a JSON value is a whole number that 64 bits hold."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_object(value: Any) -> bool:
    """Whether a JSON value is an object."""
    return isinstance(value, dict)


def is_texts(value: Any) -> bool:
    """Whether a JSON value is a list of strings."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def shown(value: Any) -> str:
    """A short text for a JSON value, for messages."""
    if isinstance(value, dict | list):
        return _NAMES[type(value)]
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a number of many digits"
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:39] + "…"


def parse(text: str | bytes, where: str, hint: str = HINT) -> Any:
    """The value that a JSON text holds.

    Raises:
        InputError: it is not JSON, not UTF-8, or nested too deep.
    """
    try:
        value = json.loads(text)
        if _openings(text) > DEPTH and is_deep(value):
            raise RecursionError
    except RecursionError:
        raise InputError("its JSON is nested too deep", where, hint) from None
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 at byte {error.start}", where, hint) from None
    except ValueError as error:
        if "int_max_str_digits" in str(error):  # Python's own message does not help a user
            raise InputError("has a number with too many digits", where, hint) from None
        reason = str(error).splitlines()[0]
        raise InputError(f"is not JSON ({reason})", where, hint) from None
    return value


def _openings(text: str | bytes) -> int:
    return text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")


def is_deep(value: Any) -> bool:
    """Whether lists and objects are nested deeper than `DEPTH`."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEPTH):
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for values in inside for each in values if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def parse_object(text: str | bytes, where: str, hint: str = HINT) -> Fields:
    """The object that a JSON text holds; raises as `parse`, and where it is something else."""
    content = parse(text, where, hint)
    if not is_object(content):
        raise InputError(f"is {shown(content)}, not a JSON object", where, hint)
    return Fields(content, where, hint)


def read_object(file: Path, hint: str = HINT) -> Fields:
    """The JSON object in a file.

    Raises:
        InputError: it cannot be read, is larger than `limits.FILE`, or holds no JSON object.
    """
    return parse_object(read_text(file, hint), str(file), hint)


def read_rows(file: Path, hint: str = HINT, *, cut_off: bool = False) -> Iterator[Fields]:
    """Yields the objects of a JSON Lines file, without blank lines; a `.gz` file is decompressed.

    Args:
        cut_off: ignore a last line that is not JSON and has no line feed: its writer may have been killed.

    Raises:
        InputError: for the first line that is not a JSON object, or is longer than `limits.LINE`.
    """
    fault: InputError | None = None
    for line in lines_of(file, hint):
        if fault:
            raise fault
        where = f"{file}:{line.number}"
        if line.too_long:
            raise LINE.error(where)
        if not line.content.strip():
            continue
        try:
            row = parse_object(line.content, where, hint)
        except InputError as error:
            fault = error
            continue
        yield row
    if fault and not (cut_off and not ends_a_line(file)):
        raise fault


def ends_a_line(file: Path) -> bool:
    """Whether the last byte of an uncompressed file is a line feed."""
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read(1) == b"\n"
