"""Types of the table in `runtime/fields.py`: a field of an experiment, and the settings that it depends on."""

import math
from typing import Any, NamedTuple

PAPER, OURS = "P", "C"
"""Sources of a default: printed in the paper (arXiv 2510.09358), or our choice where it is silent."""

SAME, MAY_DIFFER, LENGTH, CONTENT = "same", "may differ", "with --extend", "same content"
"""What a resumed run may change: nothing; anything, as the numbers are the same up to rounding; the run's length, with
`--extend`; the path, where the content of its files and folders is the same."""

REQUIRED: Any = object()


class Need(NamedTuple):
    """A setting without which a field has no effect: its value is one of `only`, or none of `never`."""

    setting: str
    reason: str
    """Why the field has no effect otherwise; `{}` is replaced by the setting's value."""
    only: tuple[Any, ...] = ()
    never: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether the field has an effect under this value of the setting."""
        return value in self.only if self.only else value not in self.never


class Field(NamedTuple):
    """A field of an experiment.

    Its type is that of its default: true or false, a whole number, a number, text, a list of texts (a tuple), or a
    mapping of names to whole numbers (a dict), which takes new names: `--config.NAME.key=1` adds one.
    """

    name: str
    """Dotted name, as in `--config.row.tokens=4096`."""
    default: Any
    about: str
    """Description, with its unit."""
    low: float = -math.inf
    high: float = math.inf
    below: float = math.inf
    """Exclusive bound; `low` and `high` are inclusive."""
    choices: tuple[str | None, ...] = ()
    """Valid values; of a list, its valid members."""
    source: str = ""
    """`PAPER`, `OURS`, or empty where it does not affect the numbers."""
    resume: str = SAME
    needs: tuple[Need, ...] = ()
    before: Any = REQUIRED
    """Value for older runs, whose config lacks the field."""
    keys: tuple[str, ...] = ()
    """The names that a mapping takes; any name where empty."""

    @property
    def expected(self) -> str:
        """Description of valid values."""
        if self.choices and isinstance(self.default, tuple):
            return f"a list of any of {', '.join(map(str, self.choices))}"
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
