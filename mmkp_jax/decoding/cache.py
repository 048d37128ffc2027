"""The key-value cache: filled with trunks, moved into slots, and extended by a token a slot.

B slots, R rows of a prefill, T token places of a row, S places of a slot, M moves, L layers, N query heads,
K key-value heads, G = N / K, H head width, D model width.

A slot holds a prompt's trunk at its first places and the rest of the text behind it, so a token's place in its slot is
its number in the text, whatever the slot and whenever it was filled. What lies behind is of an earlier text, or
nothing; no query sees it.
"""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from mmkp_jax.data.forest import Forest
from mmkp_jax.models.definition import Definition
from mmkp_jax.models.qwen2_5_vl import mrope_angles
from mmkp_jax.ops.backends import BACKENDS
from mmkp_jax.ops.layout import ROW_AXES, over_rows
from mmkp_jax.ops.splash import HEAD_AXIS


class Layer(NamedTuple):
    """Rotated keys, and values, of one layer: of slots, or of a prefill's rows.

    They are laid out so that neither product of attention has to transpose them.
    """

    key_BKHS: jax.Array
    value_BKSH: jax.Array


Cache = tuple[Layer, ...]
"""Of every layer. Each has arrays of its own: out of one for all, a layer would be copied before it is read."""


def empty_cache(definition: Definition, slots: int, places: int, dtype: jnp.dtype) -> Cache:
    """Slots that hold nothing yet."""
    config = definition.config
    K, H = config.num_kv_heads, config.head_dim
    return tuple(
        _laid_out(Layer(jnp.zeros((slots, K, H, places), dtype), jnp.zeros((slots, K, places, H), dtype)))
        for _ in range(config.num_layers)
    )


def prefill(model: nnx.Module, trunks: Forest, dtype: jnp.dtype) -> Layer:
    """Keys and values of a trunk a row: what training computes of it, the vision tower included.

    Returns:
        the layers as one, stacked: an axis [L] in front of each array.
    """
    attend = BACKENDS[model.attention].forest(trunks.segment_BT, trunks.branch_BT)
    angle_RTI = mrope_angles(trunks.position_BT3, model.config)
    graph, stacked = nnx.split(model.decoder.layers)

    def layer(x_RTD: jax.Array, state: nnx.State) -> tuple[jax.Array, Layer]:
        kept: list[jax.Array] = []

        def attend_and_keep(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            kept.extend((jnp.moveaxis(k, 1, 3), jnp.moveaxis(v, 1, 2)))
            return attend(q, k, v)

        x_RTD = nnx.merge(graph, state)(x_RTD, angle_RTI, attend_and_keep)
        return over_rows(x_RTD), _laid_out(Layer(*kept))

    return jax.lax.scan(layer, model.embed(trunks, model.visual(trunks, dtype)), stacked)[1]


def insert(cache: Cache, trunks: Layer, row_M: jax.Array, slot_M: jax.Array) -> Cache:
    """Copies rows of a prefill into slots; a move into slot B, which there is not, is none."""
    T = trunks.key_BKHS.shape[-1]

    def moved(layer: Layer, key_RKHT: jax.Array, value_RKTH: jax.Array) -> Layer:
        return Layer(
            layer.key_BKHS.at[slot_M, :, :, :T].set(key_RKHT[row_M], mode="drop"),
            layer.value_BKSH.at[slot_M, :, :T].set(value_RKTH[row_M], mode="drop"),
        )

    return tuple(_laid_out(moved(layer, *(each[i] for each in trunks))) for i, layer in enumerate(cache))


def extend(
    model: nnx.Module, cache: Cache, token_B: jax.Array, place_B: jax.Array, position_B: jax.Array, dtype: jnp.dtype
) -> tuple[Cache, jax.Array]:
    """A token more in every slot.

    Args:
        token_B: text tokens.
        place_B: where they go in their slots; one past the end goes nowhere.
        position_B: their M-RoPE position, the same in time, row and column.

    Returns:
        The cache with these tokens in it, and their hidden states after the last norm, [B, D].
    """
    B, *_, S = cache[0].key_BKHS.shape
    slot_B, seen_BS = jnp.arange(B), jnp.arange(S) <= place_B[:, None]
    angle_B1I = mrope_angles(jnp.broadcast_to(position_B[:, None, None], (B, 1, 3)), model.config)
    x_B1D = over_rows(model.decoder.embedding[...][token_B][:, None].astype(dtype))
    graph, stacked = nnx.split(model.decoder.layers)

    def layer(x_B1D: jax.Array, state: nnx.State, before: Layer) -> tuple[jax.Array, Layer]:
        kept: list[Layer] = []

        def attend(q_B1NH: jax.Array, k_B1KH: jax.Array, v_B1KH: jax.Array) -> jax.Array:
            key_BKHS = before.key_BKHS.at[slot_B, :, :, place_B].set(k_B1KH[:, 0], mode="drop")
            value_BKSH = before.value_BKSH.at[slot_B, :, place_B].set(v_B1KH[:, 0], mode="drop")
            kept.append(_laid_out(Layer(key_BKHS, value_BKSH)))
            return _attend(q_B1NH, key_BKHS, value_BKSH, seen_BS)

        state, x_B1D = jax.lax.optimization_barrier((state, x_B1D))  # else all layers' weights are gathered at once
        return over_rows(nnx.merge(graph, state)(x_B1D, angle_B1I, attend)), *kept

    extended = []
    for i, before in enumerate(cache):
        x_B1D, after = layer(x_B1D, jax.tree.map(operator.itemgetter(i), stacked), before)
        extended.append(after)
    return tuple(extended), model.decoder.norm(x_B1D)[:, 0]


def _attend(q_B1NH: jax.Array, key_BKHS: jax.Array, value_BKSH: jax.Array, seen_BS: jax.Array) -> jax.Array:
    """`ops.attention.dense_attention` of one query a slot, with keys and values as the cache has them."""
    B, _, N, H = q_B1NH.shape
    K = key_BKHS.shape[1]
    wide = jnp.promote_types(q_B1NH.dtype, jnp.float32)
    q_BKGH = q_B1NH.reshape(B, K, N // K, H)
    scores_BKGS = jnp.einsum("bkgh,bkhs->bkgs", q_BKGH, key_BKHS, preferred_element_type=wide) * H**-0.5
    scores_BKGS = jnp.where(seen_BS[:, None, None], scores_BKGS, jnp.finfo(wide).min)
    share_BKGS = jax.nn.softmax(scores_BKGS, axis=-1).astype(value_BKSH.dtype)
    return jnp.einsum("bkgs,bksh->bkgh", share_BKGS, value_BKSH).reshape(B, 1, N, H)


def _laid_out(layer: Layer) -> Layer:
    """Slots over the batch axes, heads over the tensor axis where it divides them."""
    mesh = jax.sharding.get_abstract_mesh()
    divided = layer.key_BKHS.shape[1] % mesh.shape[HEAD_AXIS] == 0
    spec = PartitionSpec(ROW_AXES, HEAD_AXIS if divided else None)
    return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, spec), layer)
