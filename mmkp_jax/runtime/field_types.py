"""A field of an experiment: what the table of `runtime/fields.py` says of each, and the settings that it depends on."""

import math
from typing import Any, NamedTuple

PAPER, OURS = "P", "C"
"""Sources of a default: printed in the paper, arXiv 2510.09358; our choice where it is silent."""

SAME, MAY_DIFFER, LENGTH, CONTENT = "same", "may differ", "with --extend", "same content"
"""What a resumed run may change: nothing; anything, as the numbers are the same up to rounding; the length of the run,
with `--extend`; the path, where the files and folders that it names hold the same."""

REQUIRED: Any = object()


class Need(NamedTuple):
    """A setting without which a field has no effect: its value is one of `only`, or none of `never`."""

    setting: str
    reason: str
    """Why the field has no effect where that does not hold; `{}` stands for the setting's value."""
    only: tuple[Any, ...] = ()
    never: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether the field has an effect under this value of the setting."""
        return value in self.only if self.only else value not in self.never


class Field(NamedTuple):
    """A field of an experiment.

    Its type is that of its default: true or false, a whole number, a number, text, a list of texts (a tuple), or a
    mapping of names to whole numbers (a dict), whose names are open: `--config.NAME.key=1` adds one.
    """

    name: str
    """With dots, as in `--config.row.tokens=4096`."""
    default: Any
    about: str
    """What it is, with its unit."""
    low: float = -math.inf
    high: float = math.inf
    below: float = math.inf
    """Numbers from `low` to `high`, and below `below`."""
    choices: tuple[str | None, ...] = ()
    source: str = ""
    """`PAPER`, `OURS`, or neither where it decides nothing of the numbers."""
    resume: str = SAME
    needs: tuple[Need, ...] = ()
    before: Any = REQUIRED
    """Value of runs whose config lacks the field, as it is newer than they are."""

    @property
    def expected(self) -> str:
        """The values that it takes, in words."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, str):
            return "text"
        if isinstance(self.default, tuple):
            return "a list of texts"
        bounds = "" if self.low == -math.inf else f" from {self.low:g}"
        bounds += "" if self.high == math.inf else f" to {self.high:g}"
        bounds += "" if self.below == math.inf else f", below {self.below:g}"
        if isinstance(self.default, dict):
            return f"a mapping of names to whole numbers{bounds}"
        return f"a {'whole ' * isinstance(self.default, int)}number{bounds}"


class Section(NamedTuple):
    """Fields that belong together."""

    title: str
    fields: tuple[Field, ...]
