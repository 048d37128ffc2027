"""The plain way, without forest: one example, one target, one causal sequence, full logits, log_softmax.

Shares with the code under test the model's layers, what it makes of images, and the positions of a plain sequence, and
nothing of its masks, branches, label slots, scans or head. T tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmkp_jax.data.forest import Forest, RowSize, Tree, tree_size
from mmkp_jax.decoding.prompts import pack_trunks, trunk_of
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.models.model import Attend, Memory, Model
from mmkp_jax.ops.attention import dense_attention


class Alone(NamedTuple):
    """A prompt and one target as a plain sequence, padded at its end."""

    row: Forest
    """One row: the prompt and all but the last token of the target."""
    next_T: np.ndarray
    """int32: the token that follows each."""
    weight_T: np.ndarray
    """float32: 1 where that is one of the target, else 0."""


def alone_row(definition: Definition, tree: Tree, target: np.ndarray, size: RowSize | None = None) -> Alone:
    """The sequence of a tree's prompt and a target, in a row of `size`, or of its own."""
    whole = Tree(np.concatenate([tree.prompt, target]), target[:0], target[:0], tree.layouts, tree.pixels)
    size = size or tree_size(trunk_of(whole), definition.processor)
    row = pack_trunks([whole], size, definition.processor)
    next_T, weight_T = np.zeros(size.tokens, np.int32), np.zeros(size.tokens, np.float32)
    next_T[: len(whole.prompt) - 1] = whole.prompt[1:]
    weight_T[len(tree.prompt) - 1 : len(whole.prompt) - 1] = 1
    return Alone(row, next_T, weight_T)


def nll_alone(definition: Definition, params: Params, alone: Alone) -> jax.Array:
    """The mean NLL of the target's tokens; float32 scalar."""
    model, row = definition.bind(params), alone.row
    features = model.encode(row.images, jnp.float32)
    x_1TD = model.embed(row, features, jnp.float32)
    rotation, attend = model.rotation(row.position_BTA), _attend(row, model.memory(row, features, jnp.float32))
    for each in definition.layers:
        x_1TD = _layer(model, each.stack, each.index)(x_1TD, rotation, attend)
    log_p = jax.nn.log_softmax(model.finish(x_1TD)[0] @ model.head.T, axis=-1)
    nll_T = -jnp.take_along_axis(log_p, alone.next_T[:, None], axis=1)[:, 0]
    return jnp.where(alone.weight_T > 0, nll_T, 0).sum() / alone.weight_T.sum()


def alone_loss(definition: Definition, params: Params, tree: Tree, target: np.ndarray) -> jax.Array:
    """The mean NLL of `target`'s tokens after the prompt of `tree`; float32 scalar."""
    if len(target) == 0:
        return jnp.float32(0)
    return nll_alone(definition, params, alone_row(definition, tree, target))


def _attend(row: Forest, memory: Memory | None) -> Attend:
    """Causal attention; and to the images of the row, for tokens that see any."""
    T = row.token_BT.shape[1]
    causal = np.tril(np.ones((T, T), bool))[None]

    def own(q, k, v):
        return dense_attention(q, k, v, causal)

    if memory is None:
        return Attend(own)
    sees_1T = memory.query_BT > 0

    def images(q, project):
        k, v = project(memory.features_BSX)
        mask_1TS = sees_1T[:, :, None] & (memory.key_BS > 0)[:, None]
        return jnp.where(sees_1T[..., None, None], dense_attention(q, k, v, mask_1TS), 0)

    return Attend(own, images, sees_1T)


def _layer(model: Model, stack: str, index: int) -> nnx.Module:
    graph, state = nnx.split(model.stack(stack))
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[index], state))
