"""Attention over packed rows: the rule, and the dense reference that states it.

B rows, T query tokens, S key tokens, N query heads, K key-value heads, G = N / K, H head width.

The rule of the forest: a token attends to tokens of its own segment that are not later in the row and that are on
the trunk or on its own branch. Padding (segment 0) attends to padding, so every softmax has a finite input.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mmkp_jax.data.forest import TRUNK

SAVED = "attention"
"""Name of what attention saves for its backward pass (`jax.ad_checkpoint.checkpoint_name`), besides its operands."""

Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(q [B, T, N, H], k and v [B, S, K, H]) -> [B, T, N, H], under a rule fixed when it was made."""


class Backend(NamedTuple):
    """A way to compute attention; what depends on the rows only is computed once a step, for all layers and heads."""

    forest: Callable[[jax.Array, jax.Array, int | None], Attention]
    """(segment_BT, branch_BT, most tokens of a tree or None) -> attention by the rule of the forest."""
    images: Callable[[jax.Array, int | None], Attention]
    """(image_BP, most patches of an image or None) -> attention of every patch to all patches of its image."""
    intervals: Callable[[jax.Array, jax.Array, int], Attention]
    """(first_BT, end_BT, S) -> attention of every query to the keys from its first up to its end, of S keys; 0 where
    the two are equal."""


class Block(NamedTuple):
    """Some of a row's queries, and the keys that they may see."""

    queries: slice
    keys: slice
    mask_BTS: jax.Array
    """bool: the query may see the key; of B and T either may be 1, for all."""


WHOLE = slice(None)


def forest_mask(segment_BT: jax.Array, branch_BT: jax.Array, queries: slice = WHOLE, keys: slice = WHOLE) -> jax.Array:
    """Which key each query may see under the rule of the forest: bool [B, T, S], query before key."""
    slot_T = jnp.arange(segment_BT.shape[-1])
    not_later_TS = slot_T[queries, None] >= slot_T[None, keys]
    query, key = branch_BT[:, queries, None], branch_BT[:, None, keys]
    return same_segment_mask(segment_BT, queries, keys) & not_later_TS & ((key == TRUNK) | (key == query))


def same_segment_mask(segment_BT: jax.Array, queries: slice = WHOLE, keys: slice = WHOLE) -> jax.Array:
    """Bidirectional attention within a segment: bool [B, T, S]."""
    return segment_BT[:, queries, None] == segment_BT[:, None, keys]


def dense_attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """Softmax attention by plain matrix products; grouped query heads; softmax and sums in at least float32.

    Args:
        q_BTNH, k_BSKH, v_BSKH: queries, keys and values, of one dtype; N is a multiple of K.
        mask_BTS: bool; True where the query may see the key. B and T may be 1, for all. A query that may see nothing
            gets the mean of all values (finite, and never used).

    Returns:
        [B, T, N, H] in that dtype.
    """
    return blockwise_attention(q_BTNH, k_BSKH, v_BSKH, [Block(WHOLE, WHOLE, mask_BTS)])


def blockwise_attention(q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, blocks: Sequence[Block]) -> jax.Array:
    """`dense_attention` for each block of queries in turn, with its keys alone; blocks cover the queries in order."""
    B, T, N, H = q_BTNH.shape
    q_BKGTH = q_BTNH.reshape(B, T, k_BSKH.shape[2], -1, H).transpose(0, 2, 3, 1, 4)
    k_BKSH, v_BKSH = (x.swapaxes(1, 2).astype(_wide(q_BTNH)) for x in (k_BSKH, v_BSKH))
    outs = [
        _attend(q_BKGTH[:, :, :, queries], k_BKSH[:, :, keys], v_BKSH[:, :, keys], mask_BTS)
        for queries, keys, mask_BTS in blocks
    ]
    out_BKGTH = outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=3)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


@jax.custom_vjp
def _attend(q_BKGTH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """Dense attention, heads first, so that no array of scores is ever transposed.

    Reductions over scores are slow, most of all on a CPU. Only the largest score is found by one: the weights' sum is a
    further column of their product with the values, and what the backward pass subtracts comes from the output. It
    recomputes the scores, so that a layer saves none.

    In bfloat16 it rounds where flash kernels do: the weights and the gradients of scores before their products, and the
    output that is saved.

    Keys and values come in at least float32, though the products take them in the dtype of the queries: so their
    gradients are unrounded when they are summed over blocks.
    """
    return _forward(q_BKGTH, k_BKSH, v_BKSH, mask_BTS)[0]


def _forward(q_BKGTH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, mask_BTS: jax.Array):
    k_BKSH, v_BKSH = k_BKSH.astype(q_BKGTH.dtype), v_BKSH.astype(q_BKGTH.dtype)
    scores_BKGTS = _scores(q_BKGTH, k_BKSH, mask_BTS)
    top_BKGT1 = scores_BKGTS.max(axis=-1, keepdims=True)
    weight_BKGTS = jnp.exp(scores_BKGTS - top_BKGT1).astype(v_BKSH.dtype)
    with_ones = jnp.concatenate([v_BKSH, jnp.ones_like(v_BKSH[..., :1])], axis=-1)
    sums = _product("bkgts,bksh->bkgth", weight_BKGTS, with_ones)
    sum_BKGTH, total_BKGT1 = sums[..., :-1], sums[..., -1:]
    found = ((sum_BKGTH / total_BKGT1).astype(v_BKSH.dtype), top_BKGT1, total_BKGT1)
    out_BKGTH, top_BKGT1, total_BKGT1 = (checkpoint_name(x, SAVED) for x in found)
    return out_BKGTH, (q_BKGTH, k_BKSH, v_BKSH, mask_BTS, out_BKGTH, top_BKGT1, total_BKGT1)


def _backward(saved: tuple[jax.Array, ...], g_BKGTH: jax.Array):
    q_BKGTH, k_BKSH, v_BKSH, mask_BTS, out_BKGTH, top_BKGT1, total_BKGT1 = saved
    share_BKGTS = jnp.exp(_scores(q_BKGTH, k_BKSH, mask_BTS) - top_BKGT1) * (1 / total_BKGT1)
    mean_BKGT1 = jnp.sum(g_BKGTH.astype(_wide(g_BKGTH)) * out_BKGTH, axis=-1, keepdims=True)
    g_share_BKGTS = _product("bkgth,bksh->bkgts", g_BKGTH, v_BKSH)
    scale_BKGT1 = jnp.where(top_BKGT1 > _least(q_BKGTH), q_BKGTH.shape[-1] ** -0.5, 0)  # 0 for queries that see nothing
    g_scores_BKGTS = (share_BKGTS * (g_share_BKGTS - mean_BKGT1) * scale_BKGT1).astype(k_BKSH.dtype)
    return (
        _product("bkgts,bksh->bkgth", g_scores_BKGTS, k_BKSH).astype(q_BKGTH.dtype),
        _product("bkgth,bkgts->bkhs", q_BKGTH, g_scores_BKGTS).mT,
        _product("bkgth,bkgts->bkhs", g_BKGTH, share_BKGTS.astype(v_BKSH.dtype)).mT,
        None,
    )


_attend.defvjp(_forward, _backward)


def _product(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of `a` and `b`, accumulated and returned in at least float32.

    XLA's CPU backend has no product of bfloat16 into float32 for every layout of its operands: there they are widened
    first, which gives the same numbers.
    """
    wide = _wide(a)
    into_wide = functools.partial(jnp.einsum, spec, preferred_element_type=wide)
    if a.dtype == b.dtype == wide:
        return into_wide(a, b)

    def widened(a: jax.Array, b: jax.Array) -> jax.Array:
        return into_wide(a.astype(wide), b.astype(wide))

    return jax.lax.platform_dependent(a, b, cpu=widened, default=into_wide)


def _wide(array: jax.Array) -> jnp.dtype:
    """The array's dtype, or float32 if that is wider."""
    return jnp.promote_types(array.dtype, jnp.float32)


def _least(array: jax.Array) -> float:
    """The score of a key that a query may not see; its share is exactly 0 where the query sees any."""
    return float(jnp.finfo(_wide(array)).min)


def _scores(q_BKGTH: jax.Array, k_BKSH: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """Scaled scores, the least number where the query may not see the key: [B, K, G, T, S].

    A selection would have mask and least number as arrays of this shape, which JAX computes once before a scan over
    layers and keeps; a bound is broadcast where it is read.
    """
    scores_BKGTS = _product("bkgth,bksh->bkgts", q_BKGTH, k_BKSH) * q_BKGTH.shape[-1] ** -0.5
    bound_BTS = jnp.where(mask_BTS, -_least(q_BKGTH), _least(q_BKGTH)).astype(scores_BKGTS.dtype)
    return jnp.minimum(scores_BKGTS, bound_BTS[:, None, None])


def _dense_forest(segment_BT: jax.Array, branch_BT: jax.Array, longest: int | None = None) -> Attention:
    mask_BTT = forest_mask(segment_BT, branch_BT)
    return lambda q, k, v: dense_attention(q, k, v, mask_BTT)


def _dense_images(image_BP: jax.Array, longest: int | None = None) -> Attention:
    mask_BPP = same_segment_mask(image_BP)
    return lambda q, k, v: dense_attention(q, k, v, mask_BPP)


def interval_mask(first_BT: jax.Array, end_BT: jax.Array, keys: int, queries: slice = WHOLE) -> jax.Array:
    """Which of `keys` keys each query sees: those from its first up to its end; bool [B, T, S]."""
    key_S = jnp.arange(keys)
    return (key_S >= first_BT[:, queries, None]) & (key_S < end_BT[:, queries, None])


def zero_where_blind(attend: Attention, first_BT: jax.Array, end_BT: jax.Array) -> Attention:
    """The attention, with 0 for a query that sees nothing."""
    sees_BT = end_BT > first_BT
    return lambda q, k, v: jnp.where(sees_BT[..., None, None], attend(q, k, v), 0)


def _dense_intervals(first_BT: jax.Array, end_BT: jax.Array, keys: int) -> Attention:
    mask_BTS = interval_mask(first_BT, end_BT, keys)
    return zero_where_blind(lambda q, k, v: dense_attention(q, k, v, mask_BTS), first_BT, end_BT)


DENSE = Backend(_dense_forest, _dense_images, _dense_intervals)
