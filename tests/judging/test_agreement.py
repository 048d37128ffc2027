import numpy as np
import pytest

from mmkp_jax.judging.agreement import bootstrap_means, kendall_w, krippendorff_alpha

NAN = np.nan
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
"""Four observers and twelve units: the worked example of Computing Krippendorff's Alpha-Reliability (2011)."""


def test_alpha_matches_krippendorffs_own_example():
    assert krippendorff_alpha(KRIPPENDORFF) == pytest.approx(0.815, abs=5e-4)


def test_alpha_is_one_for_agreement_and_about_zero_for_chance():
    assert krippendorff_alpha(np.tile([1.0, 2, 3, 2], (3, 1))) == 1
    assert abs(krippendorff_alpha(np.random.default_rng(0).integers(1, 6, (4, 5000)).astype(float))) < 0.02
    assert np.isnan(krippendorff_alpha(np.ones((2, 4))))


def test_w_is_one_for_agreement_and_zero_for_opposites():
    assert kendall_w(np.array([[1.0, 2, 3], [1, 2, 3]])) == pytest.approx(1)
    assert kendall_w(np.array([[1.0, 2, 3], [3, 2, 1]])) == 0
    assert kendall_w(np.array([[1.5, 1.5, 3], [1.5, 1.5, 3]])) == pytest.approx(1)  # corrected for ties
    assert np.isnan(kendall_w(np.full((2, 3), 2.0)))


def test_w_matches_friedmans_chi_square():
    from scipy.stats import friedmanchisquare, rankdata

    ratings = np.random.default_rng(1).integers(0, 5, (6, 4))
    ranks = rankdata(ratings, axis=1)
    assert kendall_w(ranks) == pytest.approx(friedmanchisquare(*ratings.T).statistic / (6 * 3))


def test_a_bootstrap_interval_covers_the_mean():
    values = np.random.default_rng(2).normal(3, 1, (400, 2))
    for mean, column in zip(bootstrap_means(values), values.T, strict=True):
        half = 1.96 * column.std() / 20
        assert mean.value == pytest.approx(column.mean())
        assert (mean.low, mean.high) == pytest.approx((mean.value - half, mean.value + half), abs=0.012)
