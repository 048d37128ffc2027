"""How much a score varies with the choice of posts and of runs, and whether two systems differ by more than that.

A system is a run, or several runs of one strategy under different seeds; its score is the mean of its runs' scores.

Bootstrap: the posts of the whole test set are resampled with replacement, the same for every run and group, and the
corpus metric is computed for each resample; a group's mean is over the drawn posts that have a target in it, and a
resample without any is left out for that group. Of a system with several runs, these are drawn with replacement, too:
the same ones of two systems that have as many, whose runs under one seed are in the same place. An interval holds the
middle 95% of the resampled scores or differences; p is twice the share of resampled differences on the rarer side of 0.
Approximate randomisation (Noreen, 1989): for each post a coin says whether the systems swap it, run by run; p is the
share of such swaps with a difference at least as large, in either direction, as that observed.
Both p count the observed posts as one more resample, so none is 0.

Legend: `N` posts, `U` posts with distinct values, `S` runs, `G` groups, `V` values of a post (`post_values`, then 1 if
it has a target in the group), `M` metrics, `R` resamples or swaps.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from mmkp_jax.evaluation.metric import METRICS, PostCounts, corpus_scores, post_values

RESAMPLES = 10_000
LEVEL = 0.95  # of intervals
MAX_DRAWN = 1 << 22  # random numbers in memory at a time, 8 bytes each

RunCounts = Mapping[str, PostCounts | None]
"""One run's counts by group, as `per_post` returns them."""
T = TypeVar("T")


class Interval(NamedTuple):
    """The range of the middle 95% of the resampled scores, as fractions."""

    low: float
    high: float


class Difference(NamedTuple):
    """Score of A minus score of B, as fractions, with its 95% interval and p; see the top of the file."""

    delta: float
    low: float
    high: float
    p: float
    p_holm: float
    """p adjusted for all groups and systems compared by this metric (Holm)."""
    p_swaps: float | None
    """p of the swaps; None if A and B have different numbers of runs, so that none can be swapped."""


Intervals = Mapping[str, Mapping[str, Interval] | None]
Differences = Mapping[str, Mapping[str, Difference] | None]
"""`{group: {metric: …}}` for each of `METRICS`; None for a group that cannot be formed."""


def intervals(runs: Sequence[RunCounts], resamples: int = RESAMPLES, seed: int = 0) -> Intervals:
    """The intervals of one system's scores, by group and metric."""
    low_GM, high_GM = _middle(_over_drawn_runs(_bootstrap(stack_values(runs), resamples, seed), seed))
    return _by_group(runs[0], lambda g, m: Interval(float(low_GM[g, m]), float(high_GM[g, m])))


def compare(
    a: Sequence[RunCounts], others: Sequence[Sequence[RunCounts]], resamples: int = RESAMPLES, seed: int = 0
) -> list[Differences]:
    """A minus each of the other systems, by group and metric.

    Args:
        a: the runs of a system. All runs are over the same posts in the same order.
        others: the runs of each system that it is compared with.
        resamples: the number of resamples, and of swaps.
        seed: the seed of both.
    """
    found = [_compare(a, b, resamples, seed) for b in others]
    cells = [cell for groups in found for cell in groups.values() if cell is not None]
    for metric in METRICS:
        for cell, p in zip(cells, holm([cell[metric].p for cell in cells]), strict=True):
            cell[metric] = cell[metric]._replace(p_holm=p)
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p adjusted for n comparisons (Holm, 1979): the smallest times n, the next times n - 1, …"""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min((len(p_values) - rank) * p_values[index], 1.0))
        adjusted[index] = largest
    return adjusted


def weighted_scores(weight_RN: np.ndarray, value_NSGV: np.ndarray) -> np.ndarray:
    """`score_RSGM` with each post counted as often as its weight; NaN for a group without any post."""
    return _scores((weight_RN @ value_NSGV.reshape(len(value_NSGV), -1)).reshape(-1, *value_NSGV.shape[1:]))


def stack_values(runs: Sequence[RunCounts]) -> np.ndarray:
    """`value_NSGV` for the groups that can be formed; zeros for a post without a target in the group."""
    return np.stack([np.stack([_values(run[group]) for group in _formed(run)], axis=1) for run in runs], axis=1)


def _compare(
    a: Sequence[RunCounts], b: Sequence[RunCounts], resamples: int, seed: int
) -> dict[str, dict[str, Difference] | None]:
    value_NSGV = stack_values([*a, *b])
    delta_GM = _delta(weighted_scores(np.ones((1, len(value_NSGV))), value_NSGV), len(a))[0]
    parts = np.split(_bootstrap(value_NSGV, resamples, seed), [len(a)], axis=1)
    a_RGM, b_RGM = (_over_drawn_runs(score_RSGM, seed) for score_RSGM in parts)
    delta_RGM = (a_RGM - b_RGM).round(12)
    low_GM, high_GM = _middle(delta_RGM)
    rarer_GM = np.minimum((delta_RGM <= 0).sum(axis=0), (delta_RGM >= 0).sum(axis=0))
    p_GM = np.minimum(2 * (rarer_GM + 1) / (np.isfinite(delta_RGM).sum(axis=0) + 1), 1)
    swaps_GM = _swap_p(value_NSGV, delta_GM, resamples, seed) if len(a) == len(b) else None

    def difference(g: int, m: int) -> Difference:
        delta, low, high, p = (float(each[g, m]) for each in (delta_GM, low_GM, high_GM, p_GM))
        return Difference(delta, low, high, p, p, None if swaps_GM is None else float(swaps_GM[g, m]))

    return _by_group(a[0], difference)


def _formed(run: RunCounts) -> list[str]:
    return [group for group, counts in run.items() if counts is not None]


def _values(counts: PostCounts) -> np.ndarray:
    """`value_NV`: `post_values`, and 1 for a post with a target in the group."""
    in_group_N = counts.targets_N > 0
    found = post_values(counts)
    value_NV = np.zeros((len(in_group_N), found.shape[1] + 1))
    value_NV[in_group_N, :-1] = found
    value_NV[:, -1] = in_group_N
    return value_NV


def _scores(total_V: np.ndarray) -> np.ndarray:
    """Scores from sums over posts, on the last axis."""
    with np.errstate(invalid="ignore"):  # 0/0: no post of the group
        scores = corpus_scores(total_V[..., :-1] / total_V[..., -1:])
    return np.stack([scores[metric] for metric in METRICS], axis=-1)


def _bootstrap(value_NSGV: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """`score_RSGM` of resamples; drawing N posts is drawing how many have each of the U distinct values."""
    value_USGV, count_U = np.unique(value_NSGV, axis=0, return_counts=True)
    share_U, rng = count_U / count_U.sum(), np.random.default_rng(seed)
    return np.concatenate(
        [
            weighted_scores(rng.multinomial(len(value_NSGV), share_U, size), value_USGV)
            for size in _chunks(resamples, len(count_U))
        ]
    )


def _over_drawn_runs(score_RSGM: np.ndarray, seed: int) -> np.ndarray:
    """`score_RGM`: the mean over runs drawn with replacement, the same ones for any system of as many runs."""
    resamples, runs = score_RSGM.shape[:2]
    draw_RS = np.random.default_rng((seed, runs)).integers(0, runs, (resamples, runs))
    return np.take_along_axis(score_RSGM, draw_RS[:, :, None, None], axis=1).mean(axis=1)


def _swap_p(value_NSGV: np.ndarray, delta_GM: np.ndarray, swaps: int, seed: int) -> np.ndarray:
    """`p_GM` for equally many runs of A and B; of posts with the same difference only the number of swaps is drawn."""
    a_NSGV, b_NSGV = np.split(value_NSGV, 2, axis=1)
    moved_USGV, count_U = np.unique(b_NSGV - a_NSGV, axis=0, return_counts=True)
    moved_UX, rng = moved_USGV.reshape(len(count_U), -1), np.random.default_rng(seed)
    as_large_GM = np.zeros(delta_GM.shape, int)
    for size in _chunks(swaps, len(count_U)):
        moved_RSGV = (rng.binomial(count_U, 0.5, (size, len(count_U))) @ moved_UX).reshape(size, *a_NSGV.shape[1:])
        swapped = np.concatenate((a_NSGV.sum(axis=0) + moved_RSGV, b_NSGV.sum(axis=0) - moved_RSGV), axis=1)
        as_large_GM += (abs(_delta(_scores(swapped), a_NSGV.shape[1])) >= abs(delta_GM)).sum(axis=0)
    return (as_large_GM + 1) / (swaps + 1)


def _delta(score_RSGM: np.ndarray, runs_of_a: int) -> np.ndarray:
    """`delta_RGM`, rounded so that equal scores have a difference of 0."""
    a_RGM, b_RGM = (each.mean(axis=1) for each in np.split(score_RSGM, [runs_of_a], axis=1))
    return (a_RGM - b_RGM).round(12)


def _middle(value_RGM: np.ndarray) -> np.ndarray:
    """`low_GM`, `high_GM` of the interval."""
    return np.nanquantile(value_RGM, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)


def _chunks(total: int, width: int) -> Iterator[int]:
    """Sizes that sum to `total`, so that arrays of `width` numbers a row stay within `MAX_DRAWN`."""
    size = max(1, MAX_DRAWN // width)
    for start in range(0, total, size):
        yield min(size, total - start)


def _by_group(run: RunCounts, cell: Callable[[int, int], T]) -> dict[str, dict[str, T] | None]:
    """`cell(group, metric)` for the groups that can be formed."""
    formed = _formed(run)
    return {
        group: {metric: cell(formed.index(group), m) for m, metric in enumerate(METRICS)} if group in formed else None
        for group in run
    }
