"""Attention over packed rows: the rule, the dense reference that states it, and the choice of a backend.

B rows, T query tokens, S key tokens, N query heads, K key-value heads, G = N / K, H head width.

The rule of the forest: a token attends to tokens of its own segment that do not lie later in the row and that stand
on the trunk or on its own branch. Padding (segment 0) attends to padding, so every softmax has a finite input.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmkp_jax.data.forest import TRUNK

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(q [B, T, N, H], k and v [B, S, K, H]) -> [B, T, N, H], under a rule fixed when it was made."""


class Backend(NamedTuple):
    """A way to compute attention; what depends on the rows only is made once a step, for all layers and heads."""

    forest: Callable[[jax.Array, jax.Array], Attend]
    """(segment_BT, branch_BT) -> attention by the rule of the forest."""
    pictures: Callable[[jax.Array], Attend]
    """(image_BP) -> attention of every patch to all patches of its picture."""


def forest_mask(segment_BT: jax.Array, branch_BT: jax.Array) -> jax.Array:
    """Which key each query may see under the rule of the forest: bool [B, T, T], query before key."""
    slot_T = jnp.arange(segment_BT.shape[-1])
    not_later_TT = slot_T[:, None] >= slot_T[None, :]
    query, key = branch_BT[:, :, None], branch_BT[:, None, :]
    return same_segment_mask(segment_BT) & not_later_TT & ((key == TRUNK) | (key == query))


def same_segment_mask(segment_BT: jax.Array) -> jax.Array:
    """Bidirectional attention within a segment: bool [B, T, T]."""
    return segment_BT[:, :, None] == segment_BT[:, None, :]


def dense_attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax attention with every score in memory; grouped query heads; softmax in at least float32.

    Args:
        q_BTNH, k_BSKH, v_BSKH: queries, keys and values; N is a multiple of K.
        mask: bool, broadcastable to [B, T, S]; True where the query may see the key. A query that may see nothing
            gets the mean of all values (finite, and read by nobody).

    Returns:
        [B, T, N, H] in the dtype of the values.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    scores_BKGTS = jnp.einsum("btkgh,bskh->bkgts", q_BTKGH, k_BSKH, preferred_element_type=wide) * H**-0.5
    scores_BKGTS = jnp.where(mask[:, None, None], scores_BKGTS, jnp.finfo(wide).min)
    share_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", share_BKGTS, v_BSKH).reshape(B, T, N, H)


def _dense_forest(segment_BT: jax.Array, branch_BT: jax.Array) -> Attend:
    mask_BTT = forest_mask(segment_BT, branch_BT)
    return lambda q, k, v: dense_attention(q, k, v, mask_BTT)


def _dense_pictures(image_BP: jax.Array) -> Attend:
    mask_BPP = same_segment_mask(image_BP)
    return lambda q, k, v: dense_attention(q, k, v, mask_BPP)


DENSE = Backend(_dense_forest, _dense_pictures)
