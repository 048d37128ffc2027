"""Attention on TPU: JAX's splash kernels, by the intervals of `ops.intervals`.

B rows, T tokens, S key positions, N query heads, K key-value heads, H head width, n blocks.

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
from mmkp_jax.ops.attention import SAVED, Attention, Backend, dense_cross
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
    seen_Bnn: jax.Array
    """1 where some query of the block sees some key of the block: query block before key block."""
    key_block_Bnn: jax.Array
    """The block of keys to have in memory there: one that is seen, so that none is fetched without use."""
    query_block_Bnn: jax.Array
    """The block of queries to have in memory there, for the gradient of keys and values."""
    position_BT: jax.Array
    """The position of a token's key."""
    slot_BS: jax.Array | None
    """The token whose key is at a position; None where keys are in the order of their tokens."""


def splash_backend(interpret: bool) -> Backend:
    """The backend for TPU; with `interpret` its kernels run anywhere, slowly.

    It is an argument because a program may be compiled for a TPU on a machine without one.
    """
    forest, images = functools.partial(_forest, interpret), functools.partial(_images, interpret)
    return Backend(forest, images, dense_cross)  # keys of images are few: no kernel yet


def _forest(interpret: bool, segment_BT: jax.Array, branch_BT: jax.Array, longest: int | None = None) -> Attention:
    intervals = forest_intervals(_own_segments(segment_BT), _whole_blocks(branch_BT))
    return functools.partial(_attend, interpret, _blocks(intervals))


def _images(interpret: bool, image_BP: jax.Array, longest: int | None = None) -> Attention:
    return functools.partial(_attend, interpret, _blocks(image_intervals(_own_segments(image_BP))))


def _blocks(intervals: Intervals) -> Blocks:
    first_BT, last_BT, position_BT, slot_BS = intervals
    B, T = position_BT.shape
    if T > LONGEST:
        raise InputError(f"rows of {T} tokens or patches", "config.row", f"splash attention takes at most {LONGEST}")
    size = _block(T)
    start_n = jnp.arange(0, T, size)
    seen_BTn = (first_BT[..., None] < start_n + size) & (last_BT[..., None] >= start_n)
    seen_Bnn = seen_BTn.reshape(B, T // size, size, -1).any(axis=2)
    return Blocks(
        ends_BT=first_BT << 16 | last_BT,
        seen_Bnn=seen_Bnn.astype(jnp.int32),
        key_block_Bnn=_nearest_seen(seen_Bnn),
        query_block_Bnn=_nearest_seen(seen_Bnn.mT).mT,
        position_BT=position_BT,
        slot_BS=slot_BS,
    )


def _nearest_seen(seen_Bnn: jax.Array) -> jax.Array:
    """Each block itself, or the first or last one seen where it is before or after these."""
    n = seen_Bnn.shape[-1]
    first_Bn1 = jnp.argmax(seen_Bnn, axis=-1, keepdims=True)
    last_Bn1 = n - 1 - jnp.argmax(seen_Bnn[..., ::-1], axis=-1, keepdims=True)
    return jnp.clip(jnp.arange(n), first_Bn1, last_Bn1)


def _attend(interpret: bool, blocks: Blocks, q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> jax.Array:
    T, H = q_BTNH.shape[1], q_BTNH.shape[-1]
    wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
    q_BTNH = (q_BTNH.astype(wide) * H**-0.5).astype(q_BTNH.dtype)  # the kernels do not scale
    q, k, v = (_whole_blocks(x) for x in (q_BTNH, k_BTKH, v_BTKH))
    rows = jax.vmap(functools.partial(_attend_row, interpret))
    return on_each_device(rows, blocks, q, k, v)[:, :T]


def _attend_row(interpret: bool, blocks: Blocks, q_TNH: jax.Array, k_TKH: jax.Array, v_TKH: jax.Array) -> jax.Array:
    """Attention of one row of whole blocks, with q scaled; `blocks` have no axis B."""
    if blocks.slot_BS is not None:
        k_TKH, v_TKH = (reorder(x, blocks.slot_BS, blocks.position_BT) for x in (k_TKH, v_TKH))
    by_query = MaskInfo(
        data_next=blocks.key_block_Bnn[None],
        mask_next=None,
        block_mask=blocks.seen_Bnn[None],
        partial_mask_blocks=None,
        q_sequence=blocks.ends_BT,
    )
    by_key = by_query._replace(data_next=blocks.query_block_Bnn[None])
    parts = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    kernel = splash.SplashAttentionKernel(
        by_query,
        by_query,
        by_key,
        block_sizes=splash.BlockSizes(**{f"block_{part}": _block(len(q_TNH)) for part in parts}),
        is_mqa=False,  # this variant takes groups of query heads too
        save_residuals=False,
        mask_value=splash.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=SAVED,
        mask_function=_in_interval,
        interpret=interpret,
    )
    return kernel(*(x.swapaxes(0, 1) for x in (q_TNH, k_TKH, v_TKH))).swapaxes(0, 1)


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
