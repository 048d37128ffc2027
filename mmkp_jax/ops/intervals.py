"""The attention rules as intervals: in a certain order of the keys, every query sees the keys of one interval.

B rows, T tokens, S key positions, K key-value heads, H head width.

The patches of an image are contiguous, so what a patch may see is an interval. In a row of trees (trunk, CoT branch,
SFT branch, in the row's order) it is not: an SFT token skips the CoT branch between it and the trunk. But the order of
the keys is free, since a sum does not depend on it. In order CoT branch backwards, trunk, SFT branch, a trunk or SFT
token sees from the trunk's first key to itself, and a CoT token from itself to the trunk's last key. So keys and values
are reordered, queries and outputs are not, and the result is exact, gradients too, for any lengths of branches.

Unlike in the dense reference, a slot of padding sees only itself: no interval is empty. Its output is never used.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmkp_jax.data.forest import COT, SFT, TRUNK

PADDING = 1 << 30
"""A number above every segment: slot t of padding becomes segment PADDING + t, after all others."""


class Intervals(NamedTuple):
    """The interval of each query and the order of the keys, all int32; the same for all layers and heads."""

    first_BT: jax.Array
    """The first key position that a query sees."""
    last_BT: jax.Array
    """The last key position that a query sees; never before the first."""
    position_BT: jax.Array | None
    """The position of a token's key; None where keys belong to no token."""
    slot_BS: jax.Array | None
    """The token whose key is at a position; None where keys are in the order of their tokens."""


def forest_intervals(segment_BT: jax.Array, branch_BT: jax.Array) -> Intervals:
    """The rule of the forest (`ops.attention.forest_mask`), for rows whose trees are laid out trunk, CoT, SFT.

    Args:
        segment_BT: segments by `own_segments`.
    """
    slot_T = jnp.arange(segment_BT.shape[1])
    is_cot_BT = branch_BT == COT
    side_BT = (branch_BT == SFT).astype(jnp.int32) - is_cot_BT
    slot_BS = jnp.lexsort((jnp.where(is_cot_BT, -slot_T, slot_T), side_BT, segment_BT))
    position_BT = jnp.argsort(slot_BS)

    start_BT = _starts(segment_BT)
    trunk_BT = jax.lax.cummax(jnp.where(branch_BT == TRUNK, slot_T, 0), axis=1)
    # A tree without a trunk starts with its CoT branch, whose first token has its last key, or with its SFT branch.
    trunk_first_BT = _take(position_BT, start_BT) + _take(is_cot_BT, start_BT)
    trunk_last_BT = _take(position_BT, jnp.maximum(trunk_BT, start_BT))
    return Intervals(
        first_BT=jnp.where(is_cot_BT, position_BT, trunk_first_BT),
        last_BT=jnp.where(is_cot_BT, trunk_last_BT, position_BT),
        position_BT=position_BT,
        slot_BS=slot_BS,
    )


def image_intervals(image_BP: jax.Array) -> Intervals:
    """Attention of every patch to all patches of its image, which are contiguous (`ops.attention.same_segment_mask`).

    Args:
        image_BP: segments by `own_segments`.
    """
    P = image_BP.shape[1]
    return Intervals(
        first_BT=_starts(image_BP),
        last_BT=P - 1 - _starts(image_BP[:, ::-1])[:, ::-1],
        position_BT=jnp.broadcast_to(jnp.arange(P), image_BP.shape),
        slot_BS=None,
    )


@jax.custom_vjp
def reorder(x_TKH: jax.Array, slot_S: jax.Array, position_T: jax.Array) -> jax.Array:
    """Keys or values of a row in key order. `position_T` is the inverse of `slot_S`: the backward pass gathers too."""
    return x_TKH[slot_S]


reorder.defvjp(lambda x, slot_S, position_T: (x[slot_S], position_T), lambda position_T, g: (g[position_T], None, None))


def own_segments(segment_BT: jax.Array) -> jax.Array:
    """Segments, each slot of padding a segment of its own."""
    return jnp.where(segment_BT == 0, PADDING + jnp.arange(segment_BT.shape[1]), segment_BT)


def pad_tokens(x_BTX: jax.Array, multiple: int) -> jax.Array:
    """The array padded with zeros along T to a multiple."""
    return jnp.pad(x_BTX, [(0, 0), (0, -x_BTX.shape[1] % multiple)] + [(0, 0)] * (x_BTX.ndim - 2))


def _starts(segment_BT: jax.Array) -> jax.Array:
    """The first slot of each token's segment."""
    new_BT = jnp.pad(segment_BT[:, 1:] != segment_BT[:, :-1], [(0, 0), (1, 0)])
    return jax.lax.cummax(jnp.where(new_BT, jnp.arange(segment_BT.shape[1]), 0), axis=1)


def _take(x_BT: jax.Array, slot_BT: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BT, slot_BT, axis=1)
