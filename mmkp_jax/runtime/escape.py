"""Escaping of untrusted text, one function per destination (Jinja escapes HTML)."""

import json
import re
from typing import Any

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$:@-])")
_MOVES = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, surrogates, line separators and bidirectional controls."""

_HALVES = re.compile("[\ud800-\udfff]")
_SCRIPT = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def for_terminal(text: str, *, lines: bool = False) -> str:
    """Text whose control and bidirectional characters are written as escapes (`\\x1b`), so that it moves no cursor.

    Args:
        lines: keep line feeds.
    """
    return _MOVES.sub(lambda found: found[0] if lines and found[0] == "\n" else _escaped(found[0]), text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def for_markdown(text: str) -> str:
    """Text as one line of Markdown, without markup, links or HTML."""
    return _MARKDOWN.sub(r"\\\1", for_terminal(" ".join(text.split())))


def for_script(value: Any) -> str:
    """A value as JSON for a `<script>` in a page, free of tags, comments and line separators."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_SCRIPT)


def for_file_name(text: str, *, most: int = 80) -> str:
    """Text as part of a file name: letters, digits, `.`, `_` and `-`, at most `most` of them, never empty or hidden."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:most].strip("-.")
    return kept or "unnamed"


def for_utf8(text: str) -> str:
    """Text that UTF-8 can hold: lone surrogates, which JSON may contain, become `U+FFFD`."""
    return _HALVES.sub("\ufffd", text)
