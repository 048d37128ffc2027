"""The paper's Tables 4, 5 and 7 of scored runs, and those by decision and of baselines."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.scored import Result
from benchmarks.systems import BY_STRATEGY
from mmkp_jax.evaluation.outputs import FORMS, form_shares, mean_words
from mmkp_jax.evaluation.significance import RESAMPLES
from mmkp_jax.pages.report import paper
from mmkp_jax.pages.tables import Table, count, share
from mmkp_jax.runtime.terminal import without_repeats

NOTHING = "–"


def strategies_table(results: Mapping[str, Result]) -> Table:
    """The paper's Table 4."""
    v2 = paper.STRATEGY_SETTINGS.index("3B, MMKP-V2")
    rows = [(result, paper.BY_STRATEGY[result.strategy][v2]) for result in results.values()]
    return _scores_table("By strategy (Table 4)", paper.STRATEGY_GROUPS, rows)


def gammas_table(results: Mapping[str, Result]) -> Table:
    """The paper's Table 5."""
    rows = [(result, paper.BY_GAMMA.get(result.gamma, ())) for result in results.values()]
    return _scores_table("Dynamic CoT by γ (Table 5)", paper.GAMMA_GROUPS, rows)


def decisions_table(results: Mapping[str, Result]) -> Table:
    """Dynamic CoT by decision, with controls."""
    title = "By decision (γ of 50%: half of the posts are put on CoT; of the staged run, counts are of its second half)"
    return _scores_table(title, ("all", "seen", "unseen", "absent"), [(result, ()) for result in results.values()])


def baselines_table(results: Mapping[str, Result]) -> Table:
    """Dynamic CoT next to the baselines; their steps are of their own."""
    return _scores_table(
        "Baselines", ("all", "seen", "unseen", "absent"), [(result, ()) for result in results.values()]
    )


def _scores_table(title: str, groups: Sequence[str], rows: Sequence[tuple[Result, Sequence[float]]]) -> Table:
    def cell(result: Result, group: str) -> str:
        if result.intervals[group] is None:  # no test post is of it
            return NOTHING
        low, high = result.intervals[group]["f1@1"]
        return f"{_spread(list(result.f1(group).values()))} ({100 * low:.1f}–{100 * high:.1f})"

    def reported(values: Sequence[float]) -> list[str]:
        return [f"{value:.2f}" for value in values] or [NOTHING] * len(groups) * has_reported

    has_reported = any(values for _, values in rows)
    header = ("", *groups, *FACTS, *(f"paper, {group}" for group in groups if has_reported))
    notes = [
        "F1@1 in percent: mean ± standard deviation between seeds (95% interval over test posts and seeds)"
        + "; the paper's: Qwen2.5-VL-3B on MMKP-V2" * has_reported,
        "label tokens: of the rows, both targets; a strategy's loss takes its own. on CoT: of the posts of all steps",
    ]
    return Table(
        title,
        header,
        [
            (result.name, *(cell(result, group) for group in groups), *_facts(result), *reported(values))
            for result, values in rows
        ],
        notes,
    )


FACTS = ("runs", "steps", "posts", "label tokens", "on CoT")


def _facts(result: Result) -> list[str]:
    """The cells of `FACTS`; steps, posts and labels of each run, which are the same under every seed or else listed."""
    trained = [run.metrics for run in result.runs if run.metrics]

    def each(values: Sequence[float]) -> str:
        return " / ".join(count(int(value)) for value in sorted(set(values))) or NOTHING

    posts, labels = (
        [np.nansum(metrics[name]) for metrics in trained if name in metrics] for name in ("posts", "labels")
    )
    on_cot = sum(np.nansum(metrics["cot_share"] * metrics["posts"]) for metrics in trained if "posts" in metrics)
    steps = [run.step for run in result.runs]
    return [count(len(result.runs)), each(steps), each(posts), each(labels), share(on_cot, sum(posts))]


def differences_table(results: Mapping[str, Result]) -> Table:
    """Differences of the system of reference from each of the others."""
    (ours,) = (result for result in results.values() if not result.reference_minus_this)
    rows = []
    for result in results.values():
        for group, by_metric in result.reference_minus_this.items():
            if by_metric is None:  # no test post is of this group
                continue
            found, own, other = by_metric["f1@1"], ours.f1(group), result.f1(group)
            rows.append(
                (
                    result.name,
                    group,
                    f"{100 * found.delta:+.2f}",
                    f"{100 * found.low:+.2f} to {100 * found.high:+.2f}",
                    *(NOTHING if p is None else f"{p:.4f}" for p in (found.p, found.p_holm, found.p_swaps)),
                    " ".join(f"{own[seed] - other[seed]:+.1f}" for seed in own if seed in other),
                )
            )
    header = (f"{ours.name} minus", "group", "points", "95% interval", "p", "p, Holm", "p, swaps", "by seed")
    notes = [
        f"F1@1; interval and p: {RESAMPLES:,} resamples of the test posts and of the seeds, in pairs; Holm: for all"
        " groups and systems of this table; swaps: of posts alone, – where there are not as many runs"
    ]
    return Table("Differences", header, without_repeats(rows), notes, left=2)


def words_table(results: Mapping[str, Result]) -> Table:
    """The paper's Table 7, with the forms of the outputs."""
    words = {
        system: [mean_words([answer.output for answer in run.answers]) for run in result.runs]
        for system, result in results.items()
    }
    rows = []
    for system, result in results.items():
        less = f"{100 * (np.mean(words[system]) / np.mean(words['cot']) - 1):+.2f}%" if "cot" in words else NOTHING
        forms = form_shares([answer.form for run in result.runs for answer in run.answers])
        has_reported = system in BY_STRATEGY and result.strategy in paper.WORDS
        reported = f"{paper.WORDS[result.strategy]:.2f}" if has_reported else NOTHING
        rows.append((result.name, _spread(words[system]), less, *(share(forms[form], 1) for form in FORMS), reported))
    return Table("Words generated (Table 7)", ("", "words", "against CoT", *FORMS, "paper"), rows)


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, where there is more than one."""
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")
