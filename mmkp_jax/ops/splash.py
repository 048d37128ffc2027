"""Attention on TPU: JAX's splash kernels, by the intervals of `ops.intervals`.

B rows, T tokens, S key positions, N query heads, K key-value heads, H head width, n blocks of queries, m of keys.

The two ends of a query's interval reach the kernel in its `q_sequence`, which in JAX's own masks holds the query's
slot, and a mask function reads them there (JAX documents neither; the tests run the kernels). Blocks of keys that no
query of a block may see are skipped: a row costs what its trees cost, whatever its length.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

from mmkp_jax.errors import InputError
from mmkp_jax.ops.attention import SAVED, Attention, Backend, zero_where_blind
from mmkp_jax.ops.intervals import Intervals, forest_intervals, image_intervals, own_segments, pad_tokens, reorder
from mmkp_jax.ops.layout import on_each_device

LANES = 128
BLOCK = 512
"""Queries and keys of a block, at most; a multiple of `LANES`. Not tuned on hardware."""

LONGEST = 1 << 16
"""Most key positions of a row: two of them share 32 bits."""


class Blocks(NamedTuple):
    """What the kernels need of the rows, all int32; computed once a step, for all layers and heads."""

    ends_BT: jax.Array
    """The first and the last key position that a query sees, in the high and the low 16 bits."""
    seen_Bnm: jax.Array
    """1 where some query of the block sees some key of the block: query block before key block."""
    key_block_Bnm: jax.Array
    """The block of keys to have in memory there: one that is seen, so that none is fetched without use."""
    query_block_Bnm: jax.Array
    """The block of queries to have in memory there, for the gradient of keys and values."""
    position_BT: jax.Array | None
    """The position of a token's key; None where keys are in the order of their tokens, or belong to none."""
    slot_BS: jax.Array | None
    """The token whose key is at a position; None likewise."""


def splash_backend(interpret: bool) -> Backend:
    """The backend for TPU; with `interpret` its kernels run anywhere, slowly.

    It is an argument because a program may be compiled for a TPU on a machine without one.
    """
    return Backend(*(functools.partial(each, interpret) for each in (_forest, _images, _intervals)))


def _forest(interpret: bool, segment_BT: jax.Array, branch_BT: jax.Array, longest: int | None = None) -> Attention:
    intervals = forest_intervals(_own_segments(segment_BT), _whole_blocks(branch_BT))
    return functools.partial(_attend, interpret, _blocks(intervals))


def _images(interpret: bool, image_BP: jax.Array, longest: int | None = None) -> Attention:
    return functools.partial(_attend, interpret, _blocks(image_intervals(_own_segments(image_BP))))


def _intervals(interpret: bool, first_BT: jax.Array, end_BT: jax.Array, keys: int) -> Attention:
    last_BT = jnp.maximum(end_BT - 1, first_BT)  # the kernels give every query a key
    blocks = _blocks(Intervals(_whole_blocks(first_BT), _whole_blocks(last_BT), None, None), keys)
    return zero_where_blind(functools.partial(_attend, interpret, blocks), first_BT, end_BT)


def _blocks(intervals: Intervals, keys: int | None = None) -> Blocks:
    """The blocks for as many keys as queries, or for `keys`."""
    first_BT, last_BT, position_BT, slot_BS = intervals
    B, T = first_BT.shape
    keys = keys or T
    if max(T, keys) > LONGEST:
        what = f"rows of {max(T, keys)} tokens or patches"
        raise InputError(what, "config.row", f"splash attention takes at most {LONGEST}")
    queries, size = _block(T), _block(keys)
    start_m = jnp.arange(0, keys, size)
    seen_BTm = (first_BT[..., None] < start_m + size) & (last_BT[..., None] >= start_m)
    seen_Bnm = seen_BTm.reshape(B, T // queries, queries, -1).any(axis=2)
    return Blocks(
        ends_BT=first_BT << 16 | last_BT,
        seen_Bnm=seen_Bnm.astype(jnp.int32),
        key_block_Bnm=_nearest_seen(seen_Bnm),
        query_block_Bnm=_nearest_seen(seen_Bnm.mT).mT,
        position_BT=position_BT,
        slot_BS=slot_BS,
    )


def _nearest_seen(seen_Bnm: jax.Array) -> jax.Array:
    """Each block itself, or the first or last one seen where it is before or after these."""
    m = seen_Bnm.shape[-1]
    first_Bn1 = jnp.argmax(seen_Bnm, axis=-1, keepdims=True)
    last_Bn1 = m - 1 - jnp.argmax(seen_Bnm[..., ::-1], axis=-1, keepdims=True)
    return jnp.clip(jnp.arange(m), first_Bn1, last_Bn1)


def _attend(interpret: bool, blocks: Blocks, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array) -> jax.Array:
    T, H = q_BTNH.shape[1], q_BTNH.shape[-1]
    wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
    q_BTNH = (q_BTNH.astype(wide) * H**-0.5).astype(q_BTNH.dtype)  # the kernels do not scale
    q, k, v = (_whole_blocks(x) for x in (q_BTNH, k_BSKH, v_BSKH))
    rows = jax.vmap(functools.partial(_attend_row, interpret))
    return on_each_device(rows, blocks, q, k, v)[:, :T]


def _attend_row(interpret: bool, blocks: Blocks, q_TNH: jax.Array, k_SKH: jax.Array, v_SKH: jax.Array) -> jax.Array:
    """Attention of one row of whole blocks, with q scaled; `blocks` have no axis B."""
    if blocks.slot_BS is not None:
        k_SKH, v_SKH = (reorder(x, blocks.slot_BS, blocks.position_BT) for x in (k_SKH, v_SKH))
    by_query = MaskInfo(
        data_next=blocks.key_block_Bnm[None],
        mask_next=None,
        block_mask=blocks.seen_Bnm[None],
        partial_mask_blocks=None,
        q_sequence=blocks.ends_BT,
    )
    by_key = by_query._replace(data_next=blocks.query_block_Bnm[None])
    of_queries, of_keys = ("q", "q_dkv", "q_dq"), ("kv", "kv_compute", "kv_dkv", "kv_dkv_compute", "kv_dq")
    sizes = dict.fromkeys(of_queries, _block(len(q_TNH))) | dict.fromkeys(of_keys, _block(len(k_SKH)))
    kernel = splash.SplashAttentionKernel(
        by_query,
        by_query,
        by_key,
        block_sizes=splash.BlockSizes(**{f"block_{part}": size for part, size in sizes.items()}),
        is_mqa=False,  # this variant takes groups of query heads too
        save_residuals=False,
        mask_value=splash.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=SAVED,
        mask_function=_in_interval,
        interpret=interpret,
    )
    return kernel(*(x.swapaxes(0, 1) for x in (q_TNH, k_SKH, v_SKH))).swapaxes(0, 1)


def _in_interval(ends: jax.Array, position: jax.Array) -> jax.Array:
    """The mask function: runs in the kernels, on blocks of int32."""
    return (position >= jax.lax.shift_right_logical(ends, 16)) & (position <= (ends & 0xFFFF))


def _own_segments(segment_BT: jax.Array) -> jax.Array:
    """Segments padded to whole blocks, each slot of padding a segment of its own."""
    return own_segments(_whole_blocks(segment_BT))


def _whole_blocks(x_BTX: jax.Array) -> jax.Array:
    """The array padded with zeros along T to whole blocks."""
    return pad_tokens(x_BTX, _block(x_BTX.shape[1]))


def _block(T: int) -> int:
    return min(BLOCK, T + -T % LANES)


SPLASH = splash_backend(interpret=False)
