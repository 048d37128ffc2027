"""Scores as plain-text tables, in percent: one run in full, or one metric of many systems."""

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
    return "\n".join([*_aligned(lines, left), *_reasons(scores)])


def headline(scores_by_name: Mapping[str, Scores], metric: str = "f1@1") -> str:
    """One metric of several systems over the same posts: a row a system, a column a group (or kind), n below its name.

    A group that cannot be formed is a column of dashes, and a line below says why.
    """
    first = next(iter(scores_by_name.values()))
    lines = [[f"{metric.upper()}, %", *first]]
    lines.append(["n", *(f"{scores['n']:,}" if scores else "–" for scores in first.values())])
    for name, scores in scores_by_name.items():
        lines.append([name, *(f"{100 * scores[group][metric]:.2f}" if scores[group] else "–" for group in first)])
    return "\n".join([*_aligned(lines, left=1), *_reasons(first)])


def _reasons(scores: Scores) -> list[str]:
    return [f"{group}: {why_missing(group, scores)}" for group, found in scores.items() if found is None]


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
