"""What every model family's module offers to training, decoding and planning.

B rows, T tokens, A position axes, I pairs of a head, D model width, V vocabulary.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from mmkp_jax.data.forest import Forest
from mmkp_jax.models.layers import Rotation


class Layer(NamedTuple):
    """One layer of the decoder, as the cache must know it."""

    stack: str
    """The name of the stack that it is in (`Model.stack`)."""
    index: int
    """Its place there."""
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
        """What enters the first layer, [B, T, D]: token embeddings, with features where images are."""
        ...

    def embed_text(self, token_BT: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """The same of text tokens alone."""
        ...

    def decode(self, forest: Forest, features: Any, dtype: jnp.dtype) -> jax.Array:
        """Hidden states after the last norm, from features that are there already."""
        ...

    def rotation(self, position_BTA: jax.Array) -> Rotation:
        """By how much positions turn queries and keys, [B, T, I]; the same for all layers."""
        ...

    def layers(self) -> tuple[Layer, ...]:
        """The decoder's layers in order; read off the config alone."""
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
