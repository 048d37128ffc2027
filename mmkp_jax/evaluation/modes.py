"""How a model answers with a chain of thought, without one, and by its own choice; and how good that choice is.

The posts are predicted three times (`predict --mode=direct|think|auto`). The oracle takes, for each post, the answer of
the better mode: what the best choice of a mode could reach. A choice is judged as by the Hybrid Accuracy of arXiv
2505.14631, with a post's own score in place of a reward model's.

Legend: `N` posts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmkp_jax.data.prompts import MODES, Mode
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.metric import METRICS, PostCounts, corpus_scores, post_values, scores_of
from mmkp_jax.evaluation.outputs import begins_with_thought
from mmkp_jax.evaluation.significance import RunCounts, compare
from mmkp_jax.evaluation.systems import System

METRIC = "f1@1"
"""The metric by which one mode is better than the other for a post."""

COLUMNS = ("direct", "think", "auto", "oracle")


class Choice(NamedTuple):
    """How well a model chooses the mode of its answers, over the posts of a group; a mean over runs."""

    hybrid_accuracy: float
    """Share of posts whose chosen mode is the better one; of equal ones, that of fewer words, then the direct one."""
    differ: float
    """Share of posts for which one mode is better than the other."""
    right: float | None
    """Share of those whose chosen mode is the better one; None if there are none."""
    thinks: float
    """Share of posts that the model answers with a chain of thought by its own choice."""
    p_think: float | None
    """Mean probability of a chain of thought over the posts that have one, which a post that could not be read has not;
    None if there are none."""


class Gain(NamedTuple):
    """A difference as fractions with its 95% interval; of an oracle's, chance alone makes it positive."""

    delta: float
    low: float
    high: float


class ModeGroup(NamedTuple):
    """The posts of a group under each mode; means over runs."""

    n: int
    scores: Mapping[str, Mapping[str, float]]
    """The metrics of each of `COLUMNS`; the oracle's are each by its own best choice."""
    best: str
    """The better mode for the whole group by `METRIC`."""
    gain: Gain | None
    """The oracle minus `best` by `METRIC`; None without resamples."""
    choice: Choice
    words: Mapping[str, float]
    """Mean words of an output by mode, tags included."""


Modes = Mapping[str, ModeGroup | None]
"""The measures by group; None for a group that cannot be formed."""


def measure_modes(by_mode: Mapping[Mode, System], resamples: int = 0) -> Modes:
    """Measures a model's modes from its predictions of the same posts with each of `MODES`.

    Args:
        by_mode: equally many runs for each mode, in the same order.
        resamples: of the posts, for the interval of the oracle's gain; 0 for none.

    Raises:
        InputError: the runs are not equally many, a file has no outputs, or it was predicted with another mode.
    """
    _check(by_mode)
    runs = {mode: by_mode[mode].runs for mode in MODES}
    pairs = list(zip(runs["direct"], runs["think"], strict=True))
    best_of_each = {metric: [oracle(*pair, metric) for pair in pairs] for metric in METRICS}
    scores = {mode: by_mode[mode].scores for mode in MODES}
    oracles = {metric: [scores_of(run) for run in found] for metric, found in best_of_each.items()}
    singles = ("direct", "think")
    gains = compare(best_of_each[METRIC], [runs[mode] for mode in singles], resamples) if resamples else (None, None)
    choices = [_choices({mode: each.runs[n] for mode, each in by_mode.items()}, n, by_mode) for n in range(len(pairs))]

    def group_of(group: str, counts: PostCounts) -> ModeGroup:
        columns = {mode: {m: _mean([run[group][m] for run in scores[mode]]) for m in METRICS} for mode in MODES}
        columns["oracle"] = {m: _mean([run[group][m] for run in oracles[m]]) for m in METRICS}
        best = max(singles, key=lambda mode: columns[mode][METRIC])
        gain = gains[singles.index(best)]
        return ModeGroup(
            int((counts.targets_N > 0).sum()),
            {column: columns[column] for column in COLUMNS},
            best,
            gain and Gain(*gain[group][METRIC][:3]),
            _mean_choice([each[group] for each in choices]),
            {
                mode: _mean([_words(system, n)[counts.targets_N > 0].mean() for n in range(len(pairs))])
                for mode, system in by_mode.items()
            },
        )

    return {group: counts and group_of(group, counts) for group, counts in runs["auto"][0].items()}


def oracle(direct: RunCounts, think: RunCounts, metric: str = METRIC) -> RunCounts:
    """The counts of the better answer for each post and group by a metric; of equal ones, the direct one's."""

    def better(a: PostCounts, b: PostCounts) -> PostCounts:
        takes_b_N = post_scores(b, metric) > post_scores(a, metric)
        return PostCounts(
            *(np.where(takes_b_N.reshape(-1, *[1] * (x.ndim - 1)), y, x) for x, y in zip(a, b, strict=True))
        )

    return {group: counts and better(counts, think[group]) for group, counts in direct.items()}


def post_scores(counts: PostCounts, metric: str) -> np.ndarray:
    """One of `METRICS` for each post alone [N]; 0 for a post without a target in the group."""
    score_N = np.zeros(len(counts.targets_N))
    score_N[counts.targets_N > 0] = corpus_scores(post_values(counts))[metric]
    return score_N


def modes_as_json(modes: Modes) -> dict[str, Any]:
    """The measures as plain values, by group."""

    def plain(group: ModeGroup) -> dict[str, Any]:
        gain = {"gain": group.gain._asdict()} if group.gain else {}
        choice = {name: value for name, value in group.choice._asdict().items() if value is not None}
        return {"n": group.n, **group.scores, "best": group.best, **gain, **choice, "words": dict(group.words)}

    return {group: found and plain(found) for group, found in modes.items()}


def _choices(run: Mapping[Mode, RunCounts], n: int, by_mode: Mapping[Mode, System]) -> dict[str, Choice | None]:
    """The choices of run `n` by group."""
    auto = by_mode["auto"].predicted[n]
    thinks_N = np.array([begins_with_thought(output) for output in auto.outputs])
    shorter_N = _words(by_mode["think"], n) < _words(by_mode["direct"], n)

    def choice(direct: PostCounts, think: PostCounts) -> Choice:
        ours_N = direct.targets_N > 0
        gained_N = (post_scores(think, METRIC) - post_scores(direct, METRIC))[ours_N]
        chosen_N, differ_N = thinks_N[ours_N], gained_N != 0
        better_N = np.where(differ_N, gained_N > 0, shorter_N[ours_N])
        right_N = chosen_N == better_N
        p_N = np.array([] if auto.think is None else auto.think)[ours_N if auto.think else slice(0)]
        p_N = p_N[~np.isnan(p_N)]
        return Choice(
            float(right_N.mean()),
            float(differ_N.mean()),
            float(right_N[differ_N].mean()) if differ_N.any() else None,
            float(chosen_N.mean()),
            float(p_N.mean()) if len(p_N) else None,
        )

    return {group: counts and choice(counts, run["think"][group]) for group, counts in run["direct"].items()}


def _mean_choice(runs: Sequence[Choice]) -> Choice:
    """The mean over runs; of `p_think` only where each has it, and of `right` over those with posts that differ."""
    mean = Choice(*(_mean(values) for values in zip(*runs, strict=True)))
    return mean if all(run.p_think is not None for run in runs) else mean._replace(p_think=None)


def _words(system: System, n: int) -> np.ndarray:
    return np.array([len(output.split()) for output in system.predicted[n].outputs])


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of what was measured."""
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None


def _check(by_mode: Mapping[Mode, System]) -> None:
    auto = by_mode["auto"]
    for mode in MODES:
        for file, predicted in zip(by_mode[mode].files, by_mode[mode].predicted, strict=True):
            if predicted.outputs is None:
                hint = "give predictions with the output of each post (.jsonl)"
                raise InputError("it has no outputs, which a comparison of modes needs", str(file), hint)
            if predicted.modes != {mode}:
                other = " and ".join(sorted(predicted.modes))
                hint = f"give what predict --mode={mode} wrote"
                raise InputError(f"its posts were predicted with --mode={other}, not {mode}", str(file), hint)
        if len(by_mode[mode].files) != len(auto.files):
            what = f"runs: {len(by_mode[mode].files)} with --mode={mode}, {len(auto.files)} with --mode=auto"
            raise InputError(what, str(by_mode[mode].files[0]), "give each run's predictions with each mode")
