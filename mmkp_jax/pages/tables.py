"""Tables of text, for the terminal and for a page."""

from collections.abc import Sequence
from typing import NamedTuple

from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.terminal import aligned


class Table(NamedTuple):
    """Rows of cells under a header; the first `left` columns are words, the others numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    left: int = 1
    words: Sequence[int] = ()
    """Further columns of words."""

    def is_words(self, column: int) -> bool:
        """Whether the column is aligned left."""
        return column < self.left or column in self.words


def as_text(table: Table) -> str:
    """The table as text: title, columns two spaces apart, and notes; `none` without rows."""
    title = for_terminal(table.title)
    if not table.rows:
        return f"{title}\n  none"
    lines = [*aligned((table.header, *table.rows), table.is_words), *map(for_terminal, table.notes)]
    return "\n".join([title, *(f"  {line}" for line in lines)])


def count(value: int) -> str:
    """A number with separators, such as `1,234`."""
    return f"{value:,}"


def share(part: float, whole: float) -> str:
    """A share such as `12.34%`; a dash if `whole` is 0."""
    return f"{100 * part / whole:.2f}%" if whole else "–"


def plain(text: str, most: int = 120) -> str:
    """A text as one short line for a cell, without characters that move the cursor or begin a line."""
    shown = "".join(each if each.isprintable() else " " if each.isspace() else "\ufffd" for each in text[: most + 1])
    return shown if len(text) <= most else shown[:most] + "…"
