"""The intervals of keys amount to the rules as masks, for every query, padding aside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.ops.attention import forest_mask, same_segment_mask
from mmkp_jax.ops.intervals import Intervals, forest_intervals, image_intervals, own_segments, reorder
from tests.support.attention_rows import FORESTS, IMAGES


def mask_of(intervals: Intervals) -> np.ndarray:
    """Which key, in the order of tokens, each query sees."""
    first_BT, last_BT, position_BT, _ = map(lambda a: None if a is None else np.asarray(a), intervals)
    position_B1S = position_BT[:, None]
    return (first_BT[..., None] <= position_B1S) & (position_B1S <= last_BT[..., None])


@pytest.mark.parametrize("name", FORESTS)
def test_the_forest_as_intervals_of_reordered_keys(name):
    segment_BT, branch_BT = map(jnp.asarray, FORESTS[name])
    segment_BT = own_segments(segment_BT)
    intervals = forest_intervals(segment_BT, branch_BT)
    np.testing.assert_array_equal(mask_of(intervals), forest_mask(segment_BT, branch_BT))


@pytest.mark.parametrize("name", IMAGES)
def test_images_as_intervals(name):
    image_BP = own_segments(jnp.asarray(IMAGES[name]))
    np.testing.assert_array_equal(mask_of(image_intervals(image_BP)), same_segment_mask(image_BP))


def test_reordered_keys_are_at_their_positions_and_their_gradients_come_back():
    segment_BT, branch_BT = map(jnp.asarray, FORESTS["several posts, both branches, padding"])
    intervals = forest_intervals(own_segments(segment_BT), branch_BT)
    x_TKH, slot_S, position_T = (
        np.random.default_rng(0).random((segment_BT.shape[1], 2, 3)),
        *(array[0] for array in (intervals.slot_BS, intervals.position_BT)),
    )
    out, pull = jax.vjp(lambda x: reorder(x, slot_S, position_T), jnp.asarray(x_TKH, jnp.float32))
    np.testing.assert_array_equal(out[position_T], x_TKH.astype(np.float32))
    np.testing.assert_array_equal(pull(out)[0], x_TKH.astype(np.float32))
