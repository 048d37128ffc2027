"""Intervals and p, against plain loops over posts, full enumeration, cases worked by hand, and their own promise."""

import itertools

import numpy as np
import pytest

from mmkp_jax.evaluation import significance
from mmkp_jax.evaluation.metric import CUTOFFS, GROUPS, METRICS, PostCounts, per_post, score
from mmkp_jax.evaluation.significance import compare, holm, intervals, stack_values, weighted_scores
from tests.evaluation.test_metric import random_case
from tests.support.shared_folder import TextPost


def two_runs(seed, posts):
    """(posts, lines of A, lines of B, training keyphrases); half of B's lines are A's."""
    made, lines, _, _ = random_case(seed, posts)
    _, others, _, _ = random_case(seed + 100, posts)
    train = {phrase.strip().lower() for post in made[: posts // 2] for phrase in post.keyphrases[:1]}
    return made, lines, [a if n % 2 else b for n, (a, b) in enumerate(zip(lines, others, strict=True))], train


def taken(made, lines, train, numbers):
    """The scores of these posts, some perhaps taken more than once."""
    return score([made[n] for n in numbers], [lines[n] for n in numbers], train)


def test_a_resample_scores_as_its_posts_do():
    """All groups and runs at once; few posts, so that some resamples have none of a group."""
    made, a, b, train = two_runs(3, posts=8)
    value_NSGV = stack_values([per_post(made, lines, train) for lines in (a, b)])
    draws = np.random.default_rng(0).integers(0, len(made), (40, len(made)))
    weight_RN = np.stack([np.bincount(draw, minlength=len(made)) for draw in draws])
    score_RSGM = weighted_scores(weight_RN, value_NSGV)
    empty = 0
    for draw, score_SGM in zip(draws, score_RSGM, strict=True):
        for lines, score_GM in zip((a, b), score_SGM, strict=True):
            for found, score_M in zip(taken(made, lines, train, draw).values(), score_GM, strict=True):
                empty += found is None
                expected = [np.nan] * len(METRICS) if found is None else [found[metric] for metric in METRICS]
                np.testing.assert_allclose(score_M, expected, rtol=0, atol=1e-12)
    assert empty


def test_intervals_and_p_are_those_of_a_loop_over_resamples():
    """The draws are other ones, so equal up to their noise."""
    made, a, b, train = two_runs(5, posts=40)
    rng = np.random.default_rng(1)
    deltas = {group: [] for group in GROUPS}
    for _ in range(1000):
        draw = rng.integers(0, len(made), len(made))
        one, other = (taken(made, lines, train, draw) for lines in (a, b))
        for group in GROUPS:
            if one[group] is not None:
                deltas[group].append(one[group]["f1@1"] - other[group]["f1@1"])
    found = compare([per_post(made, a, train)], [[per_post(made, b, train)]])[0]
    for group in GROUPS:
        low, high = np.quantile(deltas[group], [0.025, 0.975])
        cell, width = found[group]["f1@1"], high - low
        assert (cell.low, cell.high) == pytest.approx((low, high), abs=0.1 * width)
        p = 2 * min(np.mean(np.array(deltas[group]) <= 0), np.mean(np.array(deltas[group]) >= 0))
        assert cell.p == pytest.approx(min(p, 1), abs=0.12)
        delta = score(made, a, train)[group]["f1@1"] - score(made, b, train)[group]["f1@1"]
        assert cell.delta == pytest.approx(delta, abs=1e-11)


def test_swaps_give_the_p_of_all_swaps():
    """All 2^8 of them, each scored from the swapped lines."""
    made, _, _, train = two_runs(8, posts=8)
    a = [";".join(post.keyphrases[: n % 4]) for n, post in enumerate(made)]
    b = [";".join(["x", *post.keyphrases[n % 3 :]]) for n, post in enumerate(made)]
    observed = compare([per_post(made, a, train)], [[per_post(made, b, train)]])[0]
    as_large = {(group, metric): 0 for group in GROUPS for metric in METRICS}
    for swaps in itertools.product((False, True), repeat=len(made)):
        one = score(made, [y if swap else x for x, y, swap in zip(a, b, swaps, strict=True)], train)
        other = score(made, [x if swap else y for x, y, swap in zip(a, b, swaps, strict=True)], train)
        for group, metric in as_large:
            delta = one[group][metric] - other[group][metric]
            as_large[group, metric] += abs(delta) >= abs(observed[group][metric].delta) - 1e-9
    found = {(group, metric): observed[group][metric].p_swaps for group, metric in as_large}
    assert found == pytest.approx({key: count / 2**8 for key, count in as_large.items()}, abs=0.02)
    assert len(set(as_large.values())) > 5  # the case says something


def test_equal_runs_do_not_differ():
    made, lines, train, _ = random_case(2, posts=50)
    run = per_post(made, lines, train)
    for cell in compare([run], [[run]])[0].values():
        for found in cell.values():
            assert found == (0, 0, 0, 1, 1, 1)


def test_the_order_of_the_systems_sets_the_sign():
    made, a, b, train = two_runs(4, posts=60)
    a, b = ([per_post(made, lines, train)] for lines in (a, b))
    forth, back = compare(a, [b])[0]["all"]["f1@M"], compare(b, [a])[0]["all"]["f1@M"]
    assert forth.delta == -back.delta != 0
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=0.01)


def test_the_same_seed_gives_the_same_in_any_chunks(monkeypatch):
    made, a, b, train = two_runs(6, posts=30)
    a, b = ([per_post(made, lines, train)] for lines in (a, b))
    whole = compare(a, [b], resamples=500), intervals(a, resamples=500)
    assert (compare(a, [b], resamples=500), intervals(a, resamples=500)) == whole
    assert compare(a, [b], resamples=500, seed=1) != whole[0]
    monkeypatch.setattr(significance, "MAX_DRAWN", 1000)
    assert (compare(a, [b], resamples=500), intervals(a, resamples=500)) == whole


def test_a_system_scores_the_mean_of_its_runs():
    made, a, b, train = two_runs(9, posts=60)
    one, other = (per_post(made, lines, train) for lines in (a, b))
    against_mean = compare([one], [[one, other]])[0]["all"]["f1@1"]
    assert against_mean.delta == pytest.approx(compare([one], [[other]])[0]["all"]["f1@1"].delta / 2, abs=1e-11)
    assert against_mean.p_swaps is None  # one run has no partner to swap with
    both = compare([one, other], [[other, one]])[0]["all"]["f1@1"]
    assert both.delta == 0 and both.low < 0 < both.high and both.p_swaps == 1
    same = compare([one, other], [[one, other]])[0]["all"]["f1@1"]
    assert same == (0, 0, 0, 1, 1, 1)  # in each resample: the drawn runs are the same


def test_runs_are_drawn_too_and_in_pairs():
    """Posts that are all alike, so that only the drawn runs count: all 4^4 draws by hand."""
    ones, posts = np.ones(20, int), np.ones(20, int)
    right, wrong = counts(ones, posts), counts(0 * ones, posts)
    a, b = [right, right, right, wrong], [wrong, right, wrong, wrong]
    cell = compare(a, [b])[0]["all"]["f1@1"]
    paired = [np.mean(draw) for draw in itertools.product((1, 0, 1, 0), repeat=4)]
    assert cell.delta == 0.5 and (cell.low, cell.high) == pytest.approx(np.quantile(paired, [0.025, 0.975]), abs=1e-12)
    assert cell.p == pytest.approx(2 * np.mean(np.array(paired) <= 0), abs=0.02)
    alone = [np.mean(draw) for draw in itertools.product((1, 1, 1, 0), repeat=4)]
    assert intervals(a)["all"]["f1@1"] == pytest.approx(np.quantile(alone, [0.025, 0.975]), abs=1e-12)
    one = compare(a, [[wrong]])[0]["all"]["f1@1"]
    assert (one.low, one.high) == pytest.approx(np.quantile(alone, [0.025, 0.975]), abs=1e-12)


def test_a_group_that_cannot_be_formed_is_none():
    run = per_post([TextPost("a dog", ["dog"]), TextPost("", ["cat"])], ["dog", "x"])
    assert {group for group, cell in compare([run], [[run]])[0].items() if cell is None} == {"seen", "unseen"}
    assert intervals([run])["unseen"] is None
    assert intervals([run])["present"]["f1@1"] == (1, 1)  # one post: other resamples say nothing of the group


@pytest.mark.parametrize(
    "p_values, adjusted",
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 * .005, 3 * .01, 2 * .03, then no less than that
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.3], [0.3]),
        ([], []),
    ],
)
def test_holm(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted, abs=1e-15)


def test_holm_is_over_all_groups_and_systems_of_a_metric():
    made, a, b, train = two_runs(10, posts=60)
    _, c, _, _ = random_case(77, posts=60)
    a, *others = ([per_post(made, lines, train)] for lines in (a, b, c))
    cells = [cell for groups in compare(a, others) for cell in groups.values()]
    for metric in METRICS:
        found = [cell[metric] for cell in cells]
        assert len(found) == 10 and [each.p_holm for each in found] == holm([each.p for each in found])


def counts(hit_N, targets_N):
    """Counts of one prediction a post."""
    column = np.repeat(hit_N[:, None], len(CUTOFFS), axis=1)
    return {"all": PostCounts(targets_N, np.ones_like(column), column, hit_N / targets_N, hit_N, hit_N)}


@pytest.mark.nightly
def test_intervals_cover_the_truth_and_p_is_small_as_often_as_it_says():
    """400 test sets of 300 posts from a known population, in which A is better by 5 points of P@1, or B equals A."""
    rng = np.random.default_rng(0)
    share = np.array([0.5, 0.3, 0.2])  # of posts with 1, 2, 3 targets

    def f1(p):
        recall = p * (share / [1, 2, 3]).sum()
        return 2 * p * recall / (p + recall)

    def sample(rate_of_b):
        """A and B are right on posts that are easy for both: their hits are correlated."""
        ease_N, targets_N = rng.random(300), rng.choice([1, 2, 3], 300, p=share)
        luck = rng.random((2, 300))
        hits = (
            (0.7 * ease_N + 0.3 * luck[i] < _threshold(rate)).astype(int) for i, rate in enumerate((0.55, rate_of_b))
        )
        return [[counts(hit_N, targets_N)] for hit_N in hits]

    covered = below = below_swaps = alone = 0
    trials, truth = 400, f1(0.55) - f1(0.50)
    for _ in range(trials):
        a, b = sample(0.50)
        cell = compare(a, [b], resamples=400)[0]["all"]["f1@1"]
        covered += cell.low <= truth <= cell.high
        interval = intervals(a, resamples=400)["all"]["f1@1"]
        alone += interval.low <= f1(0.55) <= interval.high
        a, b = sample(0.55)
        cell = compare(a, [b], resamples=400)[0]["all"]["f1@1"]
        below += cell.p < 0.05
        below_swaps += cell.p_swaps < 0.05
    assert 0.92 <= covered / trials <= 0.98 and 0.92 <= alone / trials <= 0.98
    assert 0.02 <= below / trials <= 0.08 and 0.02 <= below_swaps / trials <= 0.08


def _threshold(rate):
    """Below which 0.7 u + 0.3 v of uniform u and v lies at this rate, between 0.3 and 0.7."""
    return 0.7 * rate + 0.15
