"""Attention on TPU: JAX's splash kernels, by intervals: a query sees the keys of one interval.

B rows, T tokens, S key positions, N query heads, K key-value heads, H head width, n blocks.

The patches of an image are contiguous, so what a patch may see is an interval. In a row of trees (trunk, CoT branch,
SFT branch, in the row's order) it is not: an SFT token skips the CoT branch between it and the trunk. But the order of
the keys is free, since a sum does not depend on it. In order CoT branch backwards, trunk, SFT branch, a trunk or SFT
token sees from the trunk's first key to itself, and a CoT token from itself to the trunk's last key. So keys and values
are reordered, queries and outputs are not, and the result is exact, gradients too, for any lengths of branches.

The two ends of the interval reach the kernel in its `q_sequence`, which in JAX's own masks holds the query's slot, and
a mask function reads them there (JAX documents neither; the tests run the kernels). Blocks of keys that no query of a
block may see are skipped: a row costs what its trees cost, whatever its length. Unlike in the dense reference,
a slot of padding sees only itself; its output is never used.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo
from jax.sharding import PartitionSpec

from mmkp_jax.data.forest import COT, SFT
from mmkp_jax.errors import InputError
from mmkp_jax.ops.attention import SAVED, Attention, Backend, dense_cross, forest_mask, same_segment_mask
from mmkp_jax.ops.layout import ROW_AXES

LANES = 128
BLOCK = 512
"""Queries and keys of a block, at most; a multiple of `LANES`. Not tuned on hardware."""

HEAD_AXIS = "tensor"
"""The mesh axis that heads are divided over."""

LONGEST = 1 << 16
"""Most key positions of a row: two of them share 32 bits."""

PADDING = 1 << 30
"""A number above every segment: slot t of padding becomes segment PADDING + t, after all others."""


class Intervals(NamedTuple):
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
    segment_BT, branch_BT = _own_segments(segment_BT), _whole_blocks(branch_BT)
    slot_T = jnp.arange(segment_BT.shape[1])
    side_BT = (branch_BT == SFT).astype(jnp.int32) - (branch_BT == COT)
    slot_BS = jnp.lexsort((jnp.where(branch_BT == COT, -slot_T, slot_T), side_BT, segment_BT))
    intervals = _intervals(forest_mask(segment_BT, branch_BT), position_BT=jnp.argsort(slot_BS))
    return functools.partial(_attend, interpret, intervals._replace(slot_BS=slot_BS))


def _images(interpret: bool, image_BP: jax.Array, longest: int | None = None) -> Attention:
    image_BP = _own_segments(image_BP)
    position_BP = jnp.broadcast_to(jnp.arange(image_BP.shape[1]), image_BP.shape)
    return functools.partial(_attend, interpret, _intervals(same_segment_mask(image_BP), position_BP))


def _intervals(mask_BTT: jax.Array, position_BT: jax.Array) -> Intervals:
    """The intervals that a mask amounts to, with keys in the order of `position_BT`."""
    B, T = position_BT.shape
    if T > LONGEST:
        raise InputError(f"rows of {T} tokens or patches", "config.row", f"splash attention takes at most {LONGEST}")
    first_BT = jnp.min(jnp.where(mask_BTT, position_BT[:, None], T), axis=-1)
    last_BT = jnp.max(jnp.where(mask_BTT, position_BT[:, None], -1), axis=-1)
    size = _block(T)
    start_n = jnp.arange(0, T, size)
    seen_BTn = (first_BT[..., None] < start_n + size) & (last_BT[..., None] >= start_n)
    seen_Bnn = seen_BTn.reshape(B, T // size, size, -1).any(axis=2)
    return Intervals(
        ends_BT=first_BT << 16 | last_BT,
        seen_Bnn=seen_Bnn.astype(jnp.int32),
        key_block_Bnn=_nearest_seen(seen_Bnn),
        query_block_Bnn=_nearest_seen(seen_Bnn.mT).mT,
        position_BT=position_BT,
        slot_BS=None,
    )


def _nearest_seen(seen_Bnn: jax.Array) -> jax.Array:
    """Each block itself, or the first or last one seen where it is before or after these."""
    n = seen_Bnn.shape[-1]
    first_Bn1 = jnp.argmax(seen_Bnn, axis=-1, keepdims=True)
    last_Bn1 = n - 1 - jnp.argmax(seen_Bnn[..., ::-1], axis=-1, keepdims=True)
    return jnp.clip(jnp.arange(n), first_Bn1, last_Bn1)


def _attend(
    interpret: bool, intervals: Intervals, q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array
) -> jax.Array:
    T, H = q_BTNH.shape[1], q_BTNH.shape[-1]
    wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
    q_BTNH = (q_BTNH.astype(wide) * H**-0.5).astype(q_BTNH.dtype)  # the kernels do not scale
    q, k, v = (_whole_blocks(x) for x in (q_BTNH, k_BTKH, v_BTKH))
    rows = jax.vmap(functools.partial(_attend_row, interpret))
    return _on_each_device(rows, intervals, q, k, v)[:, :T]


def _on_each_device(rows: Callable[..., jax.Array], intervals: Intervals, *qkv: jax.Array) -> jax.Array:
    """`rows` under the ambient mesh: the compiler cannot partition a kernel, so each device calls it on its part.

    Heads are divided where every device gets whole groups; otherwise each computes them all.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.axis_names:
        return rows(intervals, *qkv)
    over = tuple(axis for axis in ROW_AXES if axis in mesh.axis_names)
    divided = HEAD_AXIS in mesh.axis_names and qkv[1].shape[2] % mesh.shape[HEAD_AXIS] == 0
    spec = PartitionSpec(over, None, HEAD_AXIS if divided else None)
    specs = (PartitionSpec(over), spec, spec, spec)
    return jax.shard_map(rows, in_specs=specs, out_specs=spec, check_vma=False)(intervals, *qkv)


def _attend_row(
    interpret: bool, intervals: Intervals, q_TNH: jax.Array, k_TKH: jax.Array, v_TKH: jax.Array
) -> jax.Array:
    """Attention of one row of whole blocks, with q scaled; `intervals` have no axis B."""
    if intervals.slot_BS is not None:
        k_TKH, v_TKH = (_reorder(x, intervals.slot_BS, intervals.position_BT) for x in (k_TKH, v_TKH))
    by_query = MaskInfo(
        data_next=intervals.key_block_Bnn[None],
        mask_next=None,
        block_mask=intervals.seen_Bnn[None],
        partial_mask_blocks=None,
        q_sequence=intervals.ends_BT,
    )
    by_key = by_query._replace(data_next=intervals.query_block_Bnn[None])
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


@jax.custom_vjp
def _reorder(x_TKH: jax.Array, slot_S: jax.Array, position_T: jax.Array) -> jax.Array:
    """Keys or values in key order. `position_T` is the inverse of `slot_S`, so that the backward pass gathers too."""
    return x_TKH[slot_S]


_reorder.defvjp(
    lambda x, slot_S, position_T: (x[slot_S], position_T), lambda position_T, g: (g[position_T], None, None)
)


def _own_segments(segment_BT: jax.Array) -> jax.Array:
    """Segments padded to whole blocks, each slot of padding a segment of its own."""
    segment_BT = _whole_blocks(segment_BT)
    return jnp.where(segment_BT == 0, PADDING + jnp.arange(segment_BT.shape[1]), segment_BT)


def _whole_blocks(x_BTX: jax.Array) -> jax.Array:
    """The array padded with zeros along T to whole blocks."""
    T = x_BTX.shape[1]
    return jnp.pad(x_BTX, [(0, 0), (0, -T % _block(T))] + [(0, 0)] * (x_BTX.ndim - 2))


def _block(T: int) -> int:
    return min(BLOCK, T + -T % LANES)


SPLASH = splash_backend(interpret=False)
