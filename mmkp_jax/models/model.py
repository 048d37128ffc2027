"""The interface of every model family's module to training, decoding and planning.

B rows, T tokens, S keys of images, A position axes, I pairs of a head, N query heads, K key-value heads, H head width,
D model width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from mmkp_jax.data.forest import Forest
from mmkp_jax.models.layers import Rotation
from mmkp_jax.ops.attention import Attention
from mmkp_jax.ops.backends import RowAttention


class Layer(NamedTuple):
    """What the cache needs to know of one decoder layer."""

    stack: str
    """Name of its stack (`Model.stack`)."""
    index: int
    """Index in the stack."""
    kv_heads: int
    head_dim: int
    cross: bool = False
    """Whether it attends to images instead of tokens: its keys are those of the prompt's images."""


class Memory(NamedTuple):
    """What layers of cross-attention attend to."""

    features_BSX: jax.Array
    """What keys and values are projected from."""
    first_BT: jax.Array
    """int32: the first key that a token sees. Tokens after a prompt see what its last token sees."""
    end_BT: jax.Array
    """int32: the end of the keys that a token sees; not after the first for a token that sees none."""
    has_images_BT: jax.Array
    """bool: tokens that follow an image of their tree: only they get what layers add besides attention."""


Project = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""Keys and values, [B, S, K, H] each, from `Memory.features_BSX`."""


class Attend(NamedTuple):
    """Attention as a decoder layer calls it: in training, in a prefill, or for one token with cached keys."""

    own: Attention
    """To the tokens of the token's own tree."""
    images: Callable[[jax.Array, Project], jax.Array] | None = None
    """(q [B, T, N, H], project) -> [B, T, N, H]: to the images of its tree; 0 without any. None if no layer does so."""
    has_images_BT: jax.Array | None = None
    """bool: tokens that follow an image of their tree."""


def attend_by(attention: RowAttention, forest: Forest, memory: Memory | None = None) -> Attend:
    """Attention of a decoder's layers over packed rows."""
    own = attention.forest(forest.segment_BT, forest.branch_BT)
    if memory is None:
        return Attend(own)
    keys = memory.features_BSX.shape[1]
    if keys == 0:  # rows for text only
        return Attend(own, lambda q, project: jnp.zeros_like(q), memory.has_images_BT)
    cross = attention.intervals(memory.first_BT, memory.end_BT, keys)
    return Attend(own, lambda q, project: cross(q, *project(memory.features_BSX)), memory.has_images_BT)


class Model(Protocol):
    """A Flax module whose parameters are bound (`definition.Definition.bind`)."""

    attention: RowAttention

    def __call__(self, forest: Forest, dtype: jnp.dtype) -> jax.Array:
        """Hidden states after the last norm, [B, T, D], computed in `dtype`."""
        ...

    def encode(self, images: Any, dtype: jnp.dtype) -> Any:
        """Features of a batch's images (`Forest.images`); None in a family without images."""
        ...

    def memory(self, forest: Forest, features: Any, dtype: jnp.dtype) -> Memory | None:
        """What layers of cross-attention attend to; None in a model without any."""
        ...

    def embed(self, forest: Forest, features: Any, dtype: jnp.dtype) -> jax.Array:
        """Input of the first layer, [B, T, D]: token embeddings, with features in place of image tokens."""
        ...

    def embed_text(self, token_BT: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Input of the first layer for text tokens, [B, T, D]."""
        ...

    def decode(self, forest: Forest, features: Any, dtype: jnp.dtype) -> jax.Array:
        """Hidden states after the last norm, from features computed by `encode`."""
        ...

    def rotation(self, position_BTA: jax.Array) -> Rotation:
        """Rotation of queries and keys by their positions, [B, T, I]; the same for all layers."""
        ...

    def layers(self) -> tuple[Layer, ...]:
        """The decoder's layers in order, from the config alone."""
        ...

    def stack(self, name: str) -> nnx.Module:
        """Layers of one kind, their parameters stacked; one is called as `layer(x_BTD, rotation, attend: Attend)`."""
        ...

    def finish(self, x_BTD: jax.Array) -> jax.Array:
        """The norm after the last layer."""
        ...

    @property
    def head(self) -> jax.Array:
        """The output matrix, [V, D]."""
        ...
