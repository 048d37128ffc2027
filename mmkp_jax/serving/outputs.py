"""The text of a completion while it grows: nothing is sent that may still change or be cut."""

from collections.abc import Sequence

HALF = "\ufffd"
"""What a part of a character is decoded as."""


def cut_at(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the stops, and whether there is one."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def settled(text: str, stops: Sequence[str]) -> str:
    """The beginning of an unfinished text that will stay: no part of a character, or of a stop, at its end."""
    text = text.rstrip(HALF)
    held = max((n for stop in stops for n in range(len(stop)) if n and text.endswith(stop[:n])), default=0)
    return text[: len(text) - held]
