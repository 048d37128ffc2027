"""The table of a model's modes: answers with a chain of thought, without one, by its own choice, and the oracle's."""

from mmkp_jax.evaluation.modes import COLUMNS, METRIC, ModeGroup, Modes
from mmkp_jax.pages.tables import Table, count

HEADER = (
    *("n", *COLUMNS, "oracle - best single", "hybrid accuracy", "differ", "right of these", "thinks", "P(think)"),
    *("words: direct", "think", "auto"),
)
NOTES = (
    f"{METRIC.upper()} in percent; oracle: the better of direct and think for each post, by the cell's own group",
    "hybrid accuracy: posts whose chosen mode is the better one; of equal ones, that of fewer words, then direct",
    "differ: posts for which one mode is better; right of these: where that mode is chosen",
)


def modes_table(modes: Modes) -> Table:
    """A row a group; a dash where nothing was measured."""
    return Table("Modes", ("", *HEADER), mode_rows(modes), NOTES)


def mode_rows(modes: Modes) -> list[tuple[str, ...]]:
    """The rows of one model: the group, then a cell for each of `HEADER`."""
    return [(group, *(_cells(found) if found else ["–"] * len(HEADER))) for group, found in modes.items()]


def _cells(group: ModeGroup) -> list[str]:
    scores = {column: group.scores[column][METRIC] for column in COLUMNS}
    gain = f"{100 * (scores['oracle'] - scores[group.best]):+.2f}"
    if group.gain:
        gain += f" ({100 * group.gain.low:+.2f} to {100 * group.gain.high:+.2f})"
    choice = group.choice
    return [
        count(group.n),
        *(f"{100 * score:.2f}" for score in scores.values()),
        gain,
        *map(percent, (choice.hybrid_accuracy, choice.differ, choice.right, choice.thinks)),
        "–" if choice.p_think is None else f"{choice.p_think:.3f}",
        *(f"{group.words[mode]:.2f}" for mode in ("direct", "think", "auto")),
    ]


def percent(share: float | None) -> str:
    """A share in percent; a dash for what was not measured."""
    return "–" if share is None else f"{100 * share:.1f}%"
