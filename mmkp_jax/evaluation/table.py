"""Scores as a plain-text table by group, in percent."""

from collections.abc import Mapping

from mmkp_jax.evaluation.metric import GROUPS, METRICS, Scores, why_missing


def table(scores: Scores, extra: Mapping[str, Scores] | None = None, name: str = "model") -> str:
    """A block of rows a group: the scores' own, named `name`, and one for each of `extra` (baselines, say).

    Every row tells its n. A group that cannot be formed is a row of dashes, and a line below says why.
    """
    rows = {name: scores, **(extra or {})}
    named = len(rows) > 1
    lines = [["group", *(["who"] if named else []), "n", *map(str.upper, METRICS)]]
    for group in GROUPS:
        for index, (who, each) in enumerate(rows.items()):
            lines.append([group if index == 0 else "", *([who] if named else []), *_cells(each[group])])
    left = 1 + named  # columns of words
    reasons = [f"{group}: {why_missing(group, scores)}" for group in GROUPS if scores[group] is None]
    return "\n".join([*_aligned(lines, left), *reasons])


def _cells(scores: Mapping[str, float] | None) -> list[str]:
    if scores is None:
        return ["–"] * (1 + len(METRICS))
    return [f"{scores['n']:,}", *(f"{100 * scores[metric]:.2f}" for metric in METRICS)]


def _aligned(rows: list[list[str]], left: int) -> list[str]:
    """Columns two spaces apart; the first `left` of them to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
