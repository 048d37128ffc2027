"""The key-value cache in pages: filled with trunks, and extended by a token a slot.

B slots, C pages, P positions of a page, J pages of a slot's longest text, E keys of images, S shards, R rows of a
prefill, T tokens of a row, M moves, N query heads, K key-value heads, G = N / K, H head width, D model width, V
vocabulary, X any axes.

A slot's text is a prompt's trunk and what follows it; position p of it is position p % P of the slot's page p // P,
whatever page of the cache that is (Kwon et al., 2023, PagedAttention). All pages are read for every token, so there are
few more than the texts have needed at one time, not as many as they might need. Attention is computed page by page, in
place, and combined for each slot. A free page holds data of an earlier text, or none; no query sees it.

Layers of cross-attention have keys of a prompt's images, which stay as they are: each slot has room for the most.

Over a mesh pages and slots are divided alike, each shard numbers its own, and a slot's pages are in its shard.
"""

import dataclasses
import functools
import itertools
import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from mmkp_jax.data.forest import Forest, RowSize, empty_rows
from mmkp_jax.decoding.paging import NOWHERE, Pages
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.models.layers import Rotation
from mmkp_jax.models.model import Attend, Layer, Memory, Model, Project, attend_by
from mmkp_jax.models.nf4 import is_quantised
from mmkp_jax.ops.layout import HEAD_AXIS, ROW_AXES, over_rows


class Paged(NamedTuple):
    """Rotated keys, and values, of one layer.

    Their layout saves both products of attention a transpose.
    """

    key_CKHP: jax.Array
    value_CKPH: jax.Array


class Static(NamedTuple):
    """Keys and values of images in one layer of cross-attention."""

    key_BKHE: jax.Array
    value_BKEH: jax.Array
    seen_BE: jax.Array
    """bool: keys of the slot's own images."""


LayerCache = Paged | Static

Cache = tuple[LayerCache, ...]
"""The caches of all layers, in arrays of their own: out of one array for all, each would be copied to be read."""


def image_keys(definition: Definition, size: RowSize, dtype: jnp.dtype) -> int:
    """Keys of images in a layer of cross-attention for a row of this size; 0 in a model without such layers."""
    if not any(layer.cross for layer in definition.layers):
        return 0

    def memory(params: Params) -> Memory | None:
        model, row = definition.bind(params), empty_rows(1, size, definition.processor)
        return model.memory(row, model.encode(row.images, dtype), dtype)

    return jax.eval_shape(memory, definition.shapes()).features_BSX.shape[1]


def empty_cache(definition: Definition, pages: int, width: int, slots: int, keys: int, dtype: jnp.dtype) -> Cache:
    """`pages` empty pages of `width` positions; `keys` (`image_keys`) in each slot for cross-attention."""

    def empty(layer: Layer) -> LayerCache:
        K, H = layer.kv_heads, layer.head_dim
        if layer.cross:
            key, value = jnp.zeros((slots, K, H, keys), dtype), jnp.zeros((slots, K, keys, H), dtype)
            return _laid_out(Static(key, value, jnp.zeros((slots, keys), bool)))
        return _laid_out(Paged(jnp.zeros((pages, K, H, width), dtype), jnp.zeros((pages, K, width, H), dtype)))

    return tuple(map(empty, definition.layers))


def grown(cache: Cache, pages: int) -> Cache:
    """The cache enlarged to `pages` pages; existing ones stay in their shards and keep their numbers."""

    def padded(array: jax.Array) -> jax.Array:
        parts = _by_shard(array)
        more = pages // len(parts) - parts.shape[1]
        return _together(jnp.pad(parts, ((0, 0), (0, more), *((0, 0),) * (array.ndim - 1))))

    return tuple(_laid_out(jax.tree.map(padded, layer)) if isinstance(layer, Paged) else layer for layer in cache)


def prefill(model: Model, trunks: Forest, width: int, dtype: jnp.dtype) -> Cache:
    """Keys and values of one trunk per row, computed as in training, vision tower included.

    Returns:
        Each row's pages of `width` positions, with axes [R, J] instead of [C]; the rest of the last page is unused.
        Keys of images with axis R instead of B.
    """
    features = model.encode(trunks.images, dtype)
    memory = model.memory(trunks, features, dtype)
    any_prompt = dataclasses.replace(model.attention, longest_tree=None)  # not only those that fit training's rows
    attend = attend_by(any_prompt, trunks, memory)
    rotation = model.rotation(trunks.position_BTA)
    R, T = trunks.segment_BT.shape
    J = -(-T // width)

    def paged(k_RTKH: jax.Array, v_RTKH: jax.Array) -> Paged:
        whole = (0, 0), (0, J * width - T), (0, 0), (0, 0)
        k_RJPKH, v_RJPKH = (jnp.pad(a, whole).reshape(R, J, width, *a.shape[2:]) for a in (k_RTKH, v_RTKH))
        return _laid_out(Paged(jnp.moveaxis(k_RJPKH, 2, 4), jnp.moveaxis(v_RJPKH, 2, 3)))

    def layer(stack: nnx.Module, x_RTD: jax.Array, number: int | jax.Array) -> tuple[jax.Array, LayerCache]:
        stored: list[LayerCache] = []
        graph, stacked = nnx.split(stack)

        def own(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            stored.append(paged(k, v))
            return attend.own(q, k, v)

        def images(q: jax.Array, project: Project) -> jax.Array:
            k_REKH, v_REKH = project(memory.features_BSX)
            static = Static(jnp.moveaxis(k_REKH, 1, 3), jnp.moveaxis(v_REKH, 1, 2), _seen_at_the_end(memory, trunks))
            stored.append(_laid_out(static))
            return attend.images(q, lambda _: (k_REKH, v_REKH))

        state = jax.tree.map(operator.itemgetter(number), stacked)
        x_RTD = nnx.merge(graph, state)(x_RTD, rotation, Attend(own, images, attend.has_images_BT))
        return over_rows(x_RTD), *stored

    x_RTD = model.embed(trunks, features, dtype)
    *layers, last = model.layers()
    cache: list[LayerCache] = []
    for name, alike in itertools.groupby(layers, operator.attrgetter("stack")):  # consecutive layers of a stack
        numbers = [each.index for each in alike]
        x_RTD, pages = jax.lax.scan(functools.partial(layer, model.stack(name)), x_RTD, jnp.asarray(numbers))
        cache += [jax.tree.map(operator.itemgetter(i), pages) for i in range(len(numbers))]
    _, of_last = layer(model.stack(last.stack), x_RTD, last.index)  # only its keys and values are computed
    return *cache, of_last


def _seen_at_the_end(memory: Memory, trunks: Forest) -> jax.Array:
    """The keys of images that the last token of each row's trunk sees: bool [R, E]."""
    last_R1 = jnp.maximum(jnp.count_nonzero(trunks.segment_BT, axis=1, keepdims=True) - 1, 0)
    first_R1, end_R1 = (jnp.take_along_axis(a, last_R1, axis=1) for a in (memory.first_BT, memory.end_BT))
    key_E = jnp.arange(memory.features_BSX.shape[1])
    return (key_E >= first_R1) & (key_E < end_R1)


def insert(cache: Cache, trunks: Cache, row_M: jax.Array, slot_M: jax.Array, page_MJ: jax.Array) -> Cache:
    """Copies rows of a prefill into pages, and their keys of images into slots.

    Args:
        trunks: from `prefill`.
        row_M: the row of each move.
        slot_M: the slot that it goes to; one out of range drops it.
        page_MJ: the pages, numbered over all shards, that it goes to; writes to a page that does not exist are dropped.
    """

    def in_pages(pages: jax.Array, rows: jax.Array) -> jax.Array:
        return pages.at[page_MJ[:, : rows.shape[1]]].set(rows[row_M], mode="drop")

    def in_slots(slots: jax.Array, rows: jax.Array) -> jax.Array:
        rest = [(0, all - there) for all, there in zip(slots.shape[1:], rows.shape[1:], strict=True)]
        return slots.at[slot_M].set(jnp.pad(rows[row_M], [(0, 0), *rest]), mode="drop")

    def filled(layer: LayerCache, rows: LayerCache) -> LayerCache:
        return _laid_out(jax.tree.map(in_pages if isinstance(layer, Paged) else in_slots, layer, rows))

    return tuple(map(filled, cache, trunks))


class Weights(NamedTuple):
    """The decoder's weights in the dtype of the computation: cast once for all tokens."""

    layers: list[nnx.State]
    """Weights of each layer: sliced out of their stack, each would be copied for every token, in its own dtype."""
    head_VD: jax.Array


def weights_of(model: Model, dtype: jnp.dtype) -> Weights:
    """Copies of the weights, with the same sharding; matrices in 4 bits stay as they are."""
    names = dict.fromkeys(each.stack for each in model.layers())
    stacks = {name: _cast(nnx.state(model.stack(name)), dtype) for name in names}
    layers = [jax.tree.map(operator.itemgetter(each.index), stacks[each.stack]) for each in model.layers()]
    return Weights(layers, model.head.astype(dtype))


def _cast(state: nnx.State, dtype: jnp.dtype) -> nnx.State:
    def cast(path: tuple, leaf: jax.Array) -> jax.Array:
        name = ".".join(str(getattr(key, "key", "")) for key in path if hasattr(key, "key"))
        return leaf if is_quantised(name) else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, state)


def extend(
    model: Model,
    weights: Weights,
    cache: Cache,
    pages: Pages,
    token_B: jax.Array,
    cache_position_B: jax.Array,
    rotation: Rotation,
    dtype: jnp.dtype,
) -> tuple[Cache, jax.Array]:
    """Adds a token to every slot.

    Args:
        weights: the model's.
        pages: the pages of the slots' texts, with room for this token; without a page, its keys and values are dropped.
        token_B: text tokens.
        cache_position_B: their positions in the texts.
        rotation: their rotation, with a row for each slot.

    Returns:
        The cache with these tokens in it, and their hidden states after the last norm, [B, D].
    """
    P = next(layer for layer in cache if isinstance(layer, Paged)).key_CKHP.shape[-1]
    x_B1D = model.embed_text(token_B[:, None], dtype)
    graphs = {each.stack: nnx.graphdef(model.stack(each.stack)) for each in model.layers()}
    ours, cache_position_SB = jax.tree.map(_by_shard, pages), _by_shard(cache_position_B)

    @jax.vmap  # over shards, so that the compiler knows that no token goes to another shard's pages
    def put(before: Paged, new: Paged, pages: Pages, cache_position_B: jax.Array) -> Paged:
        page_B1 = jnp.take_along_axis(
            pages.page_BJ, cache_position_B[:, None] // P, axis=1, mode="fill", fill_value=NOWHERE
        )
        page_B, cache_position_B = page_B1[:, 0], cache_position_B % P
        return Paged(
            before.key_CKHP.at[page_B, :, :, cache_position_B].set(new.key_CKHP, mode="drop"),
            before.value_CKPH.at[page_B, :, cache_position_B].set(new.value_CKPH, mode="drop"),
        )

    def layer(
        graph: nnx.GraphDef, x_B1D: jax.Array, state: nnx.State, before: LayerCache
    ) -> tuple[jax.Array, LayerCache]:
        stored: list[LayerCache] = []

        def own(q_B1NH: jax.Array, k_B1KH: jax.Array, v_B1KH: jax.Array) -> jax.Array:
            new = Paged(_by_shard(k_B1KH[:, 0]), _by_shard(v_B1KH[:, 0]))
            after = put(jax.tree.map(_by_shard, before), new, ours, cache_position_SB)
            stored.append(_laid_out(jax.tree.map(_together, after)))
            return _together(jax.vmap(_attend)(_by_shard(q_B1NH[:, 0]), after, ours, cache_position_SB))[:, None]

        def images(q_B1NH: jax.Array, project: Project) -> jax.Array:
            stored.append(before)
            return _attend_images(q_B1NH[:, 0], before)[:, None]

        has_images_B1 = before.seen_BE.any(axis=1, keepdims=True) if isinstance(before, Static) else None
        state, x_B1D = jax.lax.optimization_barrier(
            (state, x_B1D)
        )  # otherwise all layers' weights are gathered at once
        attend = Attend(own, images, has_images_B1)
        return over_rows(nnx.merge(graph, state)(x_B1D, rotation, attend)), *stored

    extended = []
    for each, state, before in zip(model.layers(), weights.layers, cache, strict=True):
        x_B1D, after = layer(graphs[each.stack], x_B1D, state, before)
        extended.append(after)
    return tuple(extended), model.finish(x_B1D)[:, 0]


def _attend(q_BNH: jax.Array, layer: Paged, pages: Pages, cache_position_B: jax.Array) -> jax.Array:
    """`ops.attention.dense_attention` of one query per slot, on one shard; [B, N, H].

    A page's weights are relative to the largest score of its slot, so sums over pages are those over the text.
    """
    (B, N, H), (_, K, _, P) = q_BNH.shape, layer.key_CKHP.shape
    wide = jnp.promote_types(q_BNH.dtype, jnp.float32)
    least = jnp.finfo(wide).min

    def of_slots(array_CX: jax.Array, otherwise: float) -> jax.Array:
        return array_CX.at[pages.page_BJ].get(mode="fill", fill_value=otherwise)

    q_CKGH = q_BNH.reshape(B, K, N // K, H)[pages.slot_C]
    seen_CP = pages.first_C[:, None] + jnp.arange(P) <= cache_position_B[pages.slot_C][:, None]
    scores_CKGP = jnp.einsum("ckgh,ckhp->ckgp", q_CKGH, layer.key_CKHP, preferred_element_type=wide) * H**-0.5
    scores_CKGP = jnp.where(seen_CP[:, None, None], scores_CKGP, least)
    top_BKG = of_slots(scores_CKGP.max(axis=-1), least).max(axis=1)
    share_CKGP = jnp.exp(scores_CKGP - top_BKG[pages.slot_C][..., None])
    total_BKG = of_slots(share_CKGP.sum(axis=-1), 0).sum(axis=1)
    out_CKGH = jnp.einsum(
        "ckgp,ckph->ckgh", share_CKGP.astype(layer.value_CKPH.dtype), layer.value_CKPH, preferred_element_type=wide
    )
    out_BKGH = of_slots(out_CKGH, 0).sum(axis=1) / jnp.maximum(total_BKG, 1)[..., None]  # 0 only in a free slot
    return out_BKGH.astype(q_BNH.dtype).reshape(B, N, H)


def _attend_images(q_BNH: jax.Array, layer: Static) -> jax.Array:
    """Attention of one query per slot to the keys of images that it sees, 0 without any; [B, N, H]."""
    (B, N, H), (_, K, _, E) = q_BNH.shape, layer.key_BKHE.shape
    if E == 0:  # no prompt has an image
        return jnp.zeros_like(q_BNH)
    wide = jnp.promote_types(q_BNH.dtype, jnp.float32)
    product = functools.partial(jnp.einsum, preferred_element_type=wide)
    scores_BKGE = product("bkgh,bkhe->bkge", q_BNH.reshape(B, K, N // K, H), layer.key_BKHE) * H**-0.5
    scores_BKGE = jnp.where(layer.seen_BE[:, None, None], scores_BKGE, jnp.finfo(wide).min)
    share_BKGE = jax.nn.softmax(scores_BKGE).astype(q_BNH.dtype)
    out_BNH = product("bkge,bkeh->bkgh", share_BKGE, layer.value_BKEH).reshape(B, N, H)
    return jnp.where(layer.seen_BE.any(axis=1)[:, None, None], out_BNH, 0).astype(q_BNH.dtype)


def _by_shard(array: jax.Array) -> jax.Array:
    """The array with its leading axis split into (shards, part of each shard)."""
    mesh = jax.sharding.get_abstract_mesh()
    shards = math.prod(mesh.shape[axis] for axis in ROW_AXES)
    return _over_shards(array.reshape(shards, -1, *array.shape[1:]))


def _together(array: jax.Array) -> jax.Array:
    """The inverse of `_by_shard`."""
    return _over_shards(array.reshape(-1, *array.shape[2:]))


def _over_shards(array: jax.Array) -> jax.Array:
    """The array with its leading axis over the batch axes; other axes keep their sharding."""
    free = (PartitionSpec.UNCONSTRAINED,) * (array.ndim - 1)
    return jax.lax.with_sharding_constraint(array, PartitionSpec(ROW_AXES, *free))


def _laid_out(layer: LayerCache) -> LayerCache:
    """The cache with pages, rows or slots over the batch axes, and heads over the tensor axis where it divides them."""
    mesh = jax.sharding.get_abstract_mesh()
    *front, K, _, _ = layer[0].shape
    heads = HEAD_AXIS if K % mesh.shape[HEAD_AXIS] == 0 else None
    spec = PartitionSpec(ROW_AXES, *(None,) * (len(front) - 1), heads)

    def laid(array: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(array, spec if array.ndim > len(spec) else PartitionSpec(ROW_AXES))

    return jax.tree.map(laid, layer)
