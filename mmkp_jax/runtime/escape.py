"""Text of unknown origin, made harmless for where it goes: one function a destination (HTML has Jinja's own)."""

import json
import re
from typing import Any

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$:@-])")
_MOVES = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Controls, halves of characters, line separators, and what turns the direction of writing."""

_HALVES = re.compile("[\ud800-\udfff]")
_SCRIPT = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def for_terminal(text: str, *, lines: bool = False) -> str:
    """Text whose control and bidirectional characters are written as escapes (`\\x1b`), so that it moves no cursor.

    Args:
        lines: line feeds stay.
    """
    return _MOVES.sub(lambda found: found[0] if lines and found[0] == "\n" else _escaped(found[0]), text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def for_markdown(text: str) -> str:
    """Text in one line of Markdown, in which nothing is markup, a link or HTML."""
    return _MARKDOWN.sub(r"\\\1", for_terminal(" ".join(text.split())))


def for_script(value: Any) -> str:
    """A value as JSON for a `<script>` of a page: no tag, comment or line separator in it ends anything."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_SCRIPT)


def for_file_name(text: str, *, most: int = 80) -> str:
    """Text as the part of a file's name: letters, digits, `.`, `_` and `-`, at most `most`, never empty or hidden."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:most].strip("-.")
    return kept or "unnamed"


def for_utf8(text: str) -> str:
    """Text that UTF-8 can hold: a half of a character, which JSON can bring, becomes `U+FFFD`."""
    return _HALVES.sub("\ufffd", text)
