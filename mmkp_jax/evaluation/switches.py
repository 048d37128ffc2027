"""How Dynamic CoT switches its posts between their two targets from epoch to epoch.

Legend: `N` posts of a run, in the order of its steps; `E` epochs.
"""

from typing import NamedTuple

import numpy as np


class Switches(NamedTuple):
    """The switches of the posts that have a chain of thought; epochs are those of the run, the first one is 0."""

    on_cot_E: np.ndarray
    """Share of posts that took their CoT target, by epoch; NaN for an epoch without posts."""
    switched_E: np.ndarray
    """Share of posts that took another target than in the epoch before, of those in both; NaN where there are none."""
    flips: float
    """Mean number of switches of a post over the run."""
    never_cot: float
    """Share of posts that never took their CoT target."""
    always_cot: float
    """Share of posts that always did."""


def count_switches(epoch_N: np.ndarray, post_N: np.ndarray, on_cot_N: np.ndarray, has_cot_N: np.ndarray) -> Switches:
    """Counts the switches of a run's posts.

    Args:
        epoch_N: epoch, from 0.
        post_N: number of the training post; once an epoch at most.
        on_cot_N: whether the post took its CoT target in that epoch (bool).
        has_cot_N: whether the post has a chain of thought (bool); others cannot switch and are left out.

    Raises:
        ValueError: no post has a chain of thought.
    """
    if not has_cot_N.any():
        raise ValueError("no post has a chain of thought")
    epochs = int(epoch_N[has_cot_N].max()) + 1
    posts, row_N = np.unique(post_N[has_cot_N], return_inverse=True)
    target_PE = np.full((len(posts), epochs), np.nan)
    target_PE[row_N, epoch_N[has_cot_N]] = on_cot_N[has_cot_N]
    moved_PE = np.abs(np.diff(target_PE, axis=1))  # NaN where the post lacks one of the two epochs
    return Switches(
        _mean(target_PE),
        np.concatenate([[np.nan], _mean(moved_PE)]),
        float(np.nansum(moved_PE, axis=1).mean()),
        float((np.nanmax(target_PE, axis=1) == 0).mean()),
        float((np.nanmin(target_PE, axis=1) == 1).mean()),
    )


def _mean(value_PE: np.ndarray) -> np.ndarray:
    """The mean over posts of what is known; NaN where nothing is."""
    known_E = (~np.isnan(value_PE)).sum(axis=0)
    return np.where(known_E > 0, np.nansum(value_PE, axis=0) / np.maximum(known_E, 1), np.nan)
