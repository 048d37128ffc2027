"""Scores as plain-text tables, in percent: all metrics of one run, one metric of many systems, differences."""

from collections.abc import Iterator, Mapping

from mmkp_jax.evaluation.companions import MEASURES
from mmkp_jax.evaluation.files import PredictionFile
from mmkp_jax.evaluation.metric import FURTHER, GROUPS, PROTOCOL, Scores, why_missing
from mmkp_jax.evaluation.outputs import outputs_line
from mmkp_jax.evaluation.semantic import SEMANTIC
from mmkp_jax.evaluation.significance import Differences, Intervals
from mmkp_jax.evaluation.systems import Comparison, System
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.terminal import aligned, without_repeats

HEADLINES = ("f1@1", "f1@M")
"""The metrics that papers report; they are shown with an interval."""


def main_metric(best_metric: str) -> str:
    """The one of `HEADLINES` that tables of a run are headed with: F1@M if its `config.best_metric` is, else F1@1."""
    metric = best_metric.rpartition("/")[2]
    return metric if metric in HEADLINES else HEADLINES[0]


def table(scores: Scores, intervals: Intervals | None = None) -> str:
    """One row a group, with its n and the metrics of CMKP's protocol.

    `HEADLINES` have ± half the width of their interval, if given.
    A group that cannot be formed is a row of dashes, and a line below says why.
    """
    lines = [["group", "n", *map(str.upper, PROTOCOL)]]
    for group in GROUPS:
        cells = (_cell(scores, group, m, (intervals or {}) if m in HEADLINES else {}) for m in PROTOCOL)
        lines.append([group, _n(scores[group]), *cells])
    return "\n".join([*aligned(lines, lambda column: column < 1), *_reasons(scores)])


def further_table(scores_by_name: Mapping[str, Scores]) -> str:
    """The metrics beyond the protocol (`metric.FURTHER`): one row a group for a single system, else one a system."""
    if len(scores_by_name) == 1:
        (scores,) = scores_by_name.values()
        rows = [(group, scores, group) for group in GROUPS]
    else:
        rows = [(name, scores, "all") for name, scores in scores_by_name.items()]
    lines = [["group" if len(scores_by_name) == 1 else "all", *map(str.upper, FURTHER)]]
    lines += [[name, *(_cell(scores, group, metric, {}) for metric in FURTHER)] for name, scores, group in rows]
    return "\n".join(aligned(lines, lambda column: column < 1))


MEASURE_NAMES = dict(zip(MEASURES, ("words", "tokens", "repeats", "diversity", "novel", "novel P", "ECE"), strict=True))
"""What tables call the measures."""


def measure(name: str, value: float | None) -> str:
    """A measure as a table has it: a share in percent, words and tokens as they are; a dash for None."""
    return "–" if value is None else f"{value if name in ('words', 'tokens') else 100 * value:.2f}"


def answers_table(answers_by_name: Mapping[str, Mapping[str, float]]) -> str:
    """What `companions` measured, one row a system, one column a measure that some system has; empty without any."""
    names = [name for name in MEASURES if any(name in each for each in answers_by_name.values())]
    lines = [["answers", *(MEASURE_NAMES[name] for name in names)]]
    lines += [[who, *(measure(name, each.get(name)) for name in names)] for who, each in answers_by_name.items()]
    return "\n".join(aligned(lines, lambda column: column < 1)) if names else ""


def headline(
    scores_by_name: Mapping[str, Scores],
    metric: str = "f1@1",
    intervals_by_name: Mapping[str, Intervals] | None = None,
) -> str:
    """One metric of several systems over the same posts: one row a system, one column a group (or kind), with n.

    Scores have ± half the width of their interval if the system has one. A group that cannot be formed is a column
    of dashes, and a line below says why.
    """
    first = next(iter(scores_by_name.values()))
    lines = [[f"{metric.upper()}, %", *first]]
    lines.append(["n", *map(_n, first.values())])
    for name, scores in scores_by_name.items():
        intervals = (intervals_by_name or {}).get(name, {})
        lines.append([name, *(_cell(scores, group, metric, intervals) for group in first)])
    return "\n".join([*aligned(lines, lambda column: column < 1), *_reasons(first)])


def difference_table(differences: Mapping[str, Differences]) -> str:
    """Differences in points, A minus each system, for `HEADLINES` and each group that can be formed."""
    lines = [["A minus", "metric", "group", "points", "95% interval", "p", "p, Holm", "p, swaps"]]
    for name, groups in differences.items():
        for metric in HEADLINES:
            for group, cells in groups.items():
                if cells is not None:
                    found = cells[metric]
                    points = [f"{100 * each + 0.0:+.2f}" for each in (found.delta, found.low, found.high)]
                    p = [f"{each:.4f}" if each is not None else "–" for each in (found.p, found.p_holm, found.p_swaps)]
                    lines.append([name, metric.upper(), group, points[0], f"{points[1]} to {points[2]}", *p])
    return "\n".join(aligned(without_repeats(lines, 2), lambda column: column < 3))


def overview(comparison: Comparison) -> str:
    """The text that `score` prints: systems, scores, deviation between runs, differences, outputs."""
    return "\n".join(_overview(comparison))


def _overview(comparison: Comparison) -> Iterator[str]:
    systems, resamples = comparison.systems, f"{comparison.resamples:,}"
    drawn = "the posts and, of a system's several runs, of these" if comparison.has_seeds else "the posts"
    if comparison.is_one_run:
        yield table(systems["A"].mean, comparison.intervals.get("A"))
    else:
        yield from (for_terminal(f"{name}: {', '.join(map(str, each.files))}") for name, each in systems.items())
        for metric in HEADLINES:
            yield "\n" + headline(_rows(systems), metric, comparison.intervals)
    if comparison.intervals:
        yield f"±: half of the 95% interval, over {resamples} resamples of {drawn}"
    if comparison.differences:
        yield "\n" + difference_table(comparison.differences)
        yield f"interval and p: over {resamples} resamples of {drawn};"
        yield "Holm: for all groups and systems of a metric;"
        yield f"swaps: over {resamples} random swaps of posts between the two, – if they have different numbers of runs"
    yield "\n" + further_table({name: each.mean for name, each in systems.items()})
    if lines := answers_table(
        {"all" if len(systems) == 1 else name: each.mean_answers for name, each in systems.items()}
    ):
        yield "\n" + lines
    for name, system in systems.items():
        if found := system.mean_semantics:
            cells = ", ".join(f"{each} {100 * found[each]:.2f}" for each in SEMANTIC)
            yield f"{name}, " * (len(systems) > 1) + f"semantic: {cells} (n = {found['n']:,})"
    for name, system in systems.items():
        for file, predicted in zip(system.files, system.predicted, strict=True):
            if predicted.changed is not None:
                yield for_terminal(f"read leniently: {_changed(predicted)} ({file})")
            if line := outputs_line(predicted.forms, predicted.outputs):
                yield line if comparison.is_one_run else f"{name}, {line}"


def _changed(predicted: PredictionFile) -> str:
    posts = f"{predicted.changed:,} of {len(predicted.predictions):,} posts"
    return f"other keyphrases for {posts}" if predicted.changed else "no post has other keyphrases than read strictly"


def _rows(systems: Mapping[str, System]) -> dict[str, Scores]:
    """Each system's mean over its runs, and below it the standard deviation if it has several."""
    rows = {}
    for name, system in systems.items():
        rows[name] = system.mean
        if system.deviation:
            rows[f"{name}, sd of {len(system.runs)} runs"] = system.deviation
    return rows


def _reasons(scores: Scores) -> list[str]:
    return [f"{group}: {why_missing(group, scores)}" for group, found in scores.items() if found is None]


def _n(scores: Mapping[str, float] | None) -> str:
    return f"{scores['n']:,}" if scores else "–"


def _cell(scores: Scores, group: str, metric: str, intervals: Intervals) -> str:
    if scores[group] is None:
        return "–"
    cell = f"{100 * scores[group][metric]:.2f}"
    if found := intervals.get(group):
        cell += f" ± {50 * (found[metric].high - found[metric].low):.2f}"
    return cell
