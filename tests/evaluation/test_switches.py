"""Switches of posts between their targets, counted by hand and by a naive second implementation."""

import numpy as np
import pytest

from mmkp_jax.evaluation.switches import count_switches


def switches(rows):
    """Rows of (epoch, post, on CoT, has CoT)."""
    epoch_N, post_N, on_cot_N, has_cot_N = map(np.array, zip(*rows, strict=True))
    return count_switches(epoch_N, post_N, on_cot_N.astype(bool), has_cot_N.astype(bool))


def test_switches_of_four_posts_by_hand():
    """Post 5 changes each epoch, 7 once, 2 never; 9 has no chain; 4 misses the epoch in the middle."""
    rows = [(0, 5, 0, 1), (0, 7, 0, 1), (0, 2, 1, 1), (0, 9, 1, 0), (0, 4, 0, 1)]
    rows += [(1, 7, 1, 1), (1, 5, 1, 1), (1, 9, 0, 0), (1, 2, 1, 1)]
    rows += [(2, 2, 1, 1), (2, 5, 0, 1), (2, 7, 1, 1), (2, 9, 1, 0), (2, 4, 1, 1)]
    found = switches(rows)
    assert found.on_cot_E.tolist() == [1 / 4, 3 / 3, 3 / 4]
    assert np.isnan(found.switched_E[0]) and found.switched_E[1:].tolist() == [2 / 3, 1 / 3]
    assert found.flips == (2 + 1 + 0 + 0) / 4
    assert (found.never_cot, found.always_cot) == (0, 1 / 4)


def test_one_epoch_has_no_switches_and_chains_are_needed():
    found = switches([(0, 1, 1, 1), (0, 2, 0, 1)])
    assert (found.flips, found.never_cot, found.always_cot) == (0, 0.5, 0.5) and np.isnan(found.switched_E).all()
    with pytest.raises(ValueError, match="no post has a chain"):
        switches([(0, 1, 1, 0)])


@pytest.mark.parametrize("seed", range(3))
def test_switches_are_those_of_a_naive_implementation(seed):
    rng = np.random.default_rng(seed)
    has = {post: rng.random() < 0.7 for post in range(30)}
    rows = [(epoch, post, rng.random() < 0.5, has[post]) for epoch in range(6) for post in rng.permutation(30)]
    rows = rows[: len(rows) - 11]  # the last epoch is not complete
    found = switches(rows)
    history = {post: {e: on for e, p, on, _ in rows if p == post} for post in has if has[post]}
    for epoch in range(6):
        here = [each[epoch] for each in history.values() if epoch in each]
        assert found.on_cot_E[epoch] == pytest.approx(np.mean(here))
        both = [each[epoch] != each[epoch - 1] for each in history.values() if {epoch, epoch - 1} <= each.keys()]
        assert not both or found.switched_E[epoch] == pytest.approx(np.mean(both))
    flips = [sum(each[e] != each[e - 1] for e in each if e - 1 in each) for each in history.values()]
    assert found.flips == pytest.approx(np.mean(flips))
    assert found.never_cot == pytest.approx(np.mean([not any(each.values()) for each in history.values()]))
