"""Attention on TPU: JAX's splash kernels, under one rule: a query sees the keys of one interval.

B rows, T tokens, S places of keys, N query heads, K key-value heads, H head width, n blocks.

A picture's patches stand together, so what a patch may see is an interval. In a row of trees (trunk, CoT branch, SFT
branch, in the row's order) it is not: an SFT token skips the CoT branch between it and the trunk. But the order of the
keys is free, since a sum has none. In the order CoT branch backwards, trunk, SFT branch, a trunk or SFT token sees
from the trunk's first key to itself, and a CoT token from itself to the trunk's last key. So keys and values are
reordered, queries and outputs are not, and the result is exact, gradients too, for any number of tokens on any branch.

The two ends of the interval reach the kernel in its `q_sequence`, which in JAX's own masks holds the query's slot, and
a mask function reads them there. Blocks of keys that no query of a block may see are skipped: the cost of a row is
that of its trees, not of its length. Unlike in the dense reference, padding sees itself only; nobody reads it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo
from jax.sharding import PartitionSpec

from mmkp_jax.data.forest import COT, SFT, TRUNK
from mmkp_jax.ops.attention import Attend, Backend, forest_mask, same_segment_mask
from mmkp_jax.ops.layout import ROW_AXES

LANES = 128
BLOCK = 512
"""Queries and keys of a block, at most; a multiple of `LANES`. Not tuned on hardware."""

HEAD_AXIS = "tensor"
"""The mesh axis that heads are divided over."""

FIRST_PADDING = 1 << 30
"""Above every segment: padding slot t becomes a segment of its own, FIRST_PADDING + t, behind all others."""


class Intervals(NamedTuple):
    """What the kernels must know of the rows, all int32; made once a step."""

    ends_BT: jax.Array
    """The first and the last place that a query sees, in the high and the low 16 bits."""
    seen_Bnn: jax.Array
    """1 where some query of the block sees some key of the block, query block before key block."""
    key_block_Bnn: jax.Array
    """The block of keys that should be in memory: the next one seen, so that none is fetched in vain."""
    query_block_Bnn: jax.Array
    """The same of queries, for the gradient of keys and values."""
    slot_BS: jax.Array | None
    """The token whose key stands in a place; None where keys stand in the order of their tokens."""
    place_BT: jax.Array | None
    """The place of a token's key."""


def splash_backend(interpret: bool) -> Backend:
    """The backend for TPU; `interpret` runs its kernels anywhere, slowly (it is static, as the target of an
    ahead-of-time compilation cannot be seen here)."""
    return Backend(functools.partial(_forest, interpret), functools.partial(_pictures, interpret))


def _forest(interpret: bool, segment_BT: jax.Array, branch_BT: jax.Array) -> Attend:
    segment_BT, branch_BT = _own_segments(segment_BT), _whole_blocks(branch_BT)
    slot_T = jnp.arange(segment_BT.shape[1], dtype=jnp.int32)
    side_BT = (branch_BT == SFT).astype(jnp.int32) - (branch_BT == COT)
    slot_BS = jnp.lexsort((jnp.where(branch_BT == COT, -slot_T, slot_T), side_BT, segment_BT)).astype(jnp.int32)
    place_BT = jnp.argsort(slot_BS).astype(jnp.int32)
    mask_BTT = forest_mask(segment_BT, branch_BT)
    return functools.partial(_attend, interpret, _intervals(mask_BTT, slot_BS, place_BT))


def _pictures(interpret: bool, image_BP: jax.Array) -> Attend:
    return functools.partial(_attend, interpret, _intervals(same_segment_mask(_own_segments(image_BP)), None, None))


def _intervals(mask_BTT: jax.Array, slot_BS: jax.Array | None, place_BT: jax.Array | None) -> Intervals:
    """The intervals that `mask_BTT` amounts to, when a token's key stands at `place_BT`."""
    B, T, _ = mask_BTT.shape
    if T > 1 << 16:
        raise ValueError(f"splash attention takes rows of at most {1 << 16} tokens or patches, not {T}")
    place_B1T = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T)) if place_BT is None else place_BT
    place_B1T = place_B1T[:, None]
    first_BT = jnp.min(jnp.where(mask_BTT, place_B1T, T), axis=-1)
    last_BT = jnp.max(jnp.where(mask_BTT, place_B1T, -1), axis=-1)

    n = T // _block(T)
    start_n = jnp.arange(n) * _block(T)
    seen_BTn = (first_BT[..., None] < start_n + _block(T)) & (last_BT[..., None] >= start_n)
    seen_Bnn = seen_BTn.reshape(B, n, -1, n).any(axis=2)
    key_block_Bnn = _next_seen(seen_Bnn)
    query_block_Bnn = _next_seen(seen_Bnn.mT).mT
    ends_BT = first_BT << 16 | last_BT
    return Intervals(ends_BT, seen_Bnn.astype(jnp.int32), key_block_Bnn, query_block_Bnn, slot_BS, place_BT)


def _next_seen(seen_Bnn: jax.Array) -> jax.Array:
    """Each block itself, or the first or last one seen where it lies before or behind these. (All see some.)"""
    n = seen_Bnn.shape[-1]
    first_Bn1 = jnp.argmax(seen_Bnn, axis=-1, keepdims=True)
    last_Bn1 = n - 1 - jnp.argmax(seen_Bnn[..., ::-1], axis=-1, keepdims=True)
    return jnp.clip(jnp.arange(n), first_Bn1, last_Bn1).astype(jnp.int32)


def _attend(interpret: bool, rule: Intervals, q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> jax.Array:
    T, H = q_BTNH.shape[1], q_BTNH.shape[-1]
    wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
    q_BTNH = (q_BTNH.astype(wide) * H**-0.5).astype(q_BTNH.dtype)
    q, k, v = (_whole_blocks(x) for x in (q_BTNH, k_BTKH, v_BTKH))
    rows = jax.vmap(functools.partial(_attend_row, interpret))
    return _on_each_device(rows, rule, q, k, v)[:, :T]


def _on_each_device(rows, rule: Intervals, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`rows` under the ambient mesh: the compiler cannot divide a kernel, so each device calls it on its part."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.axis_names:
        return rows(rule, q, k, v)
    of_rows = PartitionSpec(tuple(axis for axis in ROW_AXES if axis in mesh.axis_names))
    whole_groups = k.shape[2] % mesh.shape.get(HEAD_AXIS, 1) == 0
    of_heads = PartitionSpec(*of_rows, None, HEAD_AXIS if HEAD_AXIS in mesh.axis_names and whole_groups else None)
    on_parts = jax.shard_map(
        rows, in_specs=(of_rows, of_heads, of_heads, of_heads), out_specs=of_heads, check_vma=False
    )
    return on_parts(rule, q, k, v)


def _attend_row(interpret: bool, rule: Intervals, q_TNH: jax.Array, k_TKH: jax.Array, v_TKH: jax.Array) -> jax.Array:
    """One row, T a multiple of the block; q is already scaled."""
    T = q_TNH.shape[0]
    if rule.slot_BS is not None:
        k_TKH, v_TKH = (_reorder(x, rule.slot_BS, rule.place_BT) for x in (k_TKH, v_TKH))
    of_queries = MaskInfo(
        data_next=rule.key_block_Bnn[None],
        mask_next=None,
        block_mask=rule.seen_Bnn[None],
        partial_mask_blocks=None,
        q_sequence=rule.ends_BT,
    )
    of_keys = of_queries._replace(data_next=rule.query_block_Bnn[None])
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    kernel = splash.SplashAttentionKernel(
        of_queries,
        of_queries,
        of_keys,
        block_sizes=splash.BlockSizes(**{f"block_{name}": _block(T) for name in names}),
        is_mqa=False,  # it takes groups of query heads as well
        save_residuals=False,
        mask_value=splash.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=None,
        mask_function=_in_interval,
        interpret=interpret,
    )
    return kernel(*(x.swapaxes(0, 1) for x in (q_TNH, k_TKH, v_TKH))).swapaxes(0, 1)


def _in_interval(ends: jax.Array, place: jax.Array) -> jax.Array:
    """Runs in the kernel, on a block of int32."""
    return (place >= jax.lax.shift_right_logical(ends, 16)) & (place <= ends & 0xFFFF)


@jax.custom_vjp
def _reorder(x_TKH: jax.Array, slot_S: jax.Array, place_T: jax.Array) -> jax.Array:
    """x[slot]; `place` is the inverse, so that the backward pass gathers too."""
    return x_TKH[slot_S]


_reorder.defvjp(lambda x, slot, place: (x[slot], place), lambda place, g: (g[place], None, None))


def _own_segments(segment_BT: jax.Array) -> jax.Array:
    """Segments in whole blocks, each slot of padding one of its own."""
    segment_BT = _whole_blocks(segment_BT)
    slot_T = jnp.arange(segment_BT.shape[1], dtype=segment_BT.dtype)
    return jnp.where(segment_BT == 0, FIRST_PADDING + slot_T, segment_BT)


def _whole_blocks(x_BTX: jax.Array) -> jax.Array:
    """Zeros behind T up to a multiple of the block."""
    T = x_BTX.shape[1]
    return jnp.pad(x_BTX, [(0, 0), (0, -T % _block(T))] + [(0, 0)] * (x_BTX.ndim - 2))


def _block(T: int) -> int:
    return min(BLOCK, T + -T % LANES)


SPLASH = splash_backend(interpret=False)
