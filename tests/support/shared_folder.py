"""The real files that some tests read; they are next to the repository, not in it."""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.paths import SHARED

CMKP = SHARED / "data" / "cmkp"


class TextPost(NamedTuple):
    """The least that the metric and the baselines ask of a post."""

    text: str
    keyphrases: tuple[str, ...]


def cmkp(name: str) -> Path:
    """A file of the CMKP folder; without it the test is skipped."""
    if not (CMKP / name).exists():
        pytest.skip(f"no {CMKP / name}: the real posts are not on this machine")
    return CMKP / name
