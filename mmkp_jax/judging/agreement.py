"""Agreement of raters, and confidence intervals of mean ranks.

Legend: `R` raters, `U` units (what is rated), `V` distinct values, `P` posts, `K` columns, `B` resamples.
"""

from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
CHUNK_SIZE = 1 << 22  # drawn numbers held at a time, 8 bytes each


class Mean(NamedTuple):
    """A mean over posts, with the bounds of the middle 95% of its bootstrap resamples."""

    value: float
    low: float
    high: float


def bootstrap_means(values_PK: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> list[Mean]:
    """The mean of each column with its bootstrap interval; posts, as whole rows, are resampled with replacement."""
    rng, posts = np.random.default_rng(seed), len(values_PK)
    at_a_time = max(1, CHUNK_SIZE // posts)
    means_BK = np.concatenate(
        [
            rng.multinomial(posts, np.full(posts, 1 / posts), min(at_a_time, resamples - done)) @ values_PK / posts
            for done in range(0, resamples, at_a_time)
        ]
    )
    low_K, high_K = np.quantile(means_BK, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [Mean(*map(float, each)) for each in zip(values_PK.mean(axis=0), low_K, high_K, strict=True)]


def kendall_w(ranks_RU: np.ndarray) -> float:
    """Kendall's W of raters who ranked the same units, corrected for ties: 1 is full agreement, 0 is none.

    NaN where every rater ties all units.
    """
    raters, units = ranks_RU.shape
    counts = np.concatenate([np.unique(row, return_counts=True)[1] for row in ranks_RU])
    ties = float((counts**3 - counts).sum())
    sums_U = ranks_RU.sum(axis=0)
    spread = float(((sums_U - sums_U.mean()) ** 2).sum())
    most = raters**2 * (units**3 - units) - raters * ties
    return 12 * spread / most if most > 0 else float("nan")


def krippendorff_alpha(ratings_RU: np.ndarray) -> float:
    """Krippendorff's alpha for ordinal ratings; NaN marks a missing rating.

    1 is full agreement, 0 what chance gives; NaN where all ratings are the same. Computed from coincidences
    (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011).
    """
    values_V = np.unique(ratings_RU[~np.isnan(ratings_RU)])
    counts_UV = (ratings_RU.T[:, :, None] == values_V).sum(axis=1).astype(float)
    rated_U = counts_UV.sum(axis=1)
    counts_UV, rated_U = counts_UV[rated_U > 1], rated_U[rated_U > 1]
    weighted_UV = counts_UV / (rated_U[:, None] - 1)
    coincidences_VV = weighted_UV.T @ counts_UV - np.diag(weighted_UV.sum(axis=0))
    totals_V = coincidences_VV.sum(axis=1)
    below_V = totals_V.cumsum() - totals_V / 2  # each value's middle rank
    distance_VV = (below_V[:, None] - below_V[None, :]) ** 2
    expected = float((np.outer(totals_V, totals_V) * distance_VV).sum()) / max(totals_V.sum() - 1, 1)
    return 1 - float((coincidences_VV * distance_VV).sum()) / expected if expected > 0 else float("nan")
