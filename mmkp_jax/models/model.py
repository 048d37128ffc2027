"""The interface of every model family's module to training, decoding and planning.

B rows, T tokens, A position axes, I pairs of a head, D model width, V vocabulary.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from mmkp_jax.data.forest import Forest
from mmkp_jax.models.layers import Rotation


class Layer(NamedTuple):
    """What the cache needs to know of one decoder layer."""

    stack: str
    """Name of its stack (`Model.stack`)."""
    index: int
    """Index in the stack."""
    kv_heads: int
    head_dim: int


class Model(Protocol):
    """A Flax module whose parameters are bound (`definition.Definition.bind`)."""

    attention: str
    """A name of `ops.backends.BACKENDS`."""

    def __call__(self, forest: Forest, dtype: jnp.dtype) -> jax.Array:
        """Hidden states after the last norm, [B, T, D], computed in `dtype`."""
        ...

    def encode(self, images: Any, dtype: jnp.dtype) -> Any:
        """Features of a batch's images (`Forest.images`); None in a family without images."""
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
        """Layers of one kind, their parameters stacked; one is called as `layer(x_BTD, rotation, attend)`."""
        ...

    def finish(self, x_BTD: jax.Array) -> jax.Array:
        """The norm after the last layer."""
        ...

    @property
    def head(self) -> jax.Array:
        """The output matrix, [V, D]."""
        ...
