"""What is accepted from a row with a correction, counted: one note a file reports it."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

NOTES = {
    "number": "{n} rows with a number as id, taken as text",
    "unnamed": "{n} rows without an id, named after the file and line",
    "imageless": "{n} rows without 'image', taken as posts without one",
    "string": "{n} rows with keyphrases in one text, split at ';'",
    "blanks": "{n} rows with line breaks or more than one blank in a keyphrase, made one blank",
    "invisible": "{n} rows with a keyphrase of invisible characters, left out",
    "repeats": "{n} rows with a keyphrase twice (in any case), kept once",
}
"""Wording of a note, by what was found."""


class Notes:
    """How many rows of each file were corrected, and how."""

    def __init__(self):
        self._found: dict[str, Counter[str]] = {}

    def count(self, file: str, what: str) -> None:
        """Counts a row of a file; `what` is one of `NOTES`."""
        self._found.setdefault(file, Counter())[what] += 1

    def lines(self) -> list[str]:
        """One line for each file with corrected rows."""
        return [
            f"{file}: taken as meant: " + "; ".join(NOTES[what].format(n=f"{n:,}") for what, n in found.items())
            for file, found in self._found.items()
        ]


def tidy(keyphrases: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Keyphrases with runs of blanks made one and repeats (in any case) removed; and which of `NOTES` apply."""
    visible = [each for each in keyphrases if not is_invisible(each)]
    joined = [" ".join(each.split()) for each in visible]
    once: dict[str, str] = {}
    for each in joined:
        once.setdefault(each.lower(), each)
    changed = ["invisible"] * (len(visible) < len(keyphrases))
    changed += ["blanks"] * (joined != visible) + ["repeats"] * (len(once) < len(joined))
    return tuple(once.values()), changed


def is_invisible(text: str) -> bool:
    """Whether a text has no visible character: only blanks, controls and format characters."""
    return all(each.isspace() or unicodedata.category(each) in ("Cc", "Cf") for each in text)
