"""Findings of a part, on disk as soon as they are known: what a part found before its time was up is kept."""

import json
import math
import os
from pathlib import Path
from typing import Any


class Notes:
    """The findings, by name; `file` holds all of them whenever it exists."""

    def __init__(self, file: Path):
        self._file, self._found = file, {}

    def put(self, **found: Any) -> None:
        """Adds findings, JSON values; a number that is not finite becomes None."""
        self._found |= found
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(finite(self._found)), encoding="utf-8")
        os.replace(unfinished, self._file)


def finite(value: Any) -> Any:
    """The value with None for each number in it that JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
