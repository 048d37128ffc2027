"""A frozen tower's features as part of the data: what they depend on, and rows that hold them in place of pixels.

B rows, S slots of the first kind of a row, X numbers of a slot.

A family need not know of it: `Model.encode` computes the features, `Model.decode` takes them, and what they depend on
is read off the computation itself.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mmkp_jax.data.feature_store import FeatureKind
from mmkp_jax.data.forest import Forest
from mmkp_jax.data.processor import Processor, holds_features
from mmkp_jax.models.definition import Definition, flatten, unflatten

ANY_TOKENS = 64
"""Tokens of the row whose default slots images are described with, or twice as many as often as it takes for a slot of
each kind; nothing else depends on the number."""


def given_features(definition: Definition, forest: Forest, dtype: jnp.dtype) -> jax.Array | None:
    """The features that rows hold in place of pixels, as `Model.encode` returns them; None in rows with pixels."""
    processor = definition.processor
    if not holds_features(forest.images, processor):
        return None
    value_BSX = jnp.asarray(getattr(forest.images, processor.values))
    if value_BSX.dtype == jnp.uint16:
        value_BSX = lax.bitcast_convert_type(value_BSX, jnp.bfloat16)
    struct = _features(definition, _with_pixels(forest.images, processor), dtype)
    return value_BSX.astype(dtype).reshape(struct.shape)


def as_values(features: jax.Array, slots: int) -> jax.Array:
    """What `Model.encode` returns as rows hold it, [B, S, X]: bfloat16 as its bits."""
    value_BSX = features.reshape(len(features), slots, -1)
    return lax.bitcast_convert_type(value_BSX, jnp.uint16) if value_BSX.dtype == jnp.bfloat16 else value_BSX


def feature_kind(definition: Definition, dtype: jnp.dtype) -> FeatureKind:
    """The features of a slot, computed in `dtype`."""
    processor = definition.processor
    images = _images(processor)
    struct = jax.eval_shape(
        lambda features: as_values(features, getattr(images, processor.values).shape[1]),
        _features(definition, images, dtype),
    )
    return FeatureKind(struct.shape[-1], struct.dtype.name)


def vector_width(definition: Definition, dtype: jnp.dtype) -> int:
    """Numbers of each vector that `Model.encode` returns, its last axis."""
    return _features(definition, _images(definition.processor), dtype).shape[-1]


def params_read(definition: Definition, dtype: jnp.dtype) -> tuple[str, ...]:
    """Paths of the parameters that features depend on, read off `Model.encode`."""
    flat, images = flatten(definition.shapes()), _images(definition.processor)

    def encode(params: dict[str, Any]) -> Any:
        return definition.bind(unflatten(params)).encode(images, dtype)

    jaxpr = jax.make_jaxpr(encode)(flat).jaxpr
    needed = {id(each) for each in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):  # an equation with a needed result needs all of its operands
        if any(id(each) in needed for each in equation.outvars):
            needed |= {id(each) for each in equation.invars}
    paths = sorted(flat)  # the order of a dict's leaves
    return tuple(path for path, each in zip(paths, jaxpr.invars, strict=True) if id(each) in needed)


def _features(definition: Definition, images: Any, dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
    struct = jax.eval_shape(lambda p: definition.bind(p).encode(images, dtype), definition.shapes())
    assert isinstance(struct, jax.ShapeDtypeStruct), "features are one array, whose second axis begins with the slots"
    return struct


def _images(processor: Processor) -> Any:
    """A row of images, nothing in it."""
    tokens = ANY_TOKENS
    while not all(processor.default_slots(tokens).values()):
        tokens *= 2
    return processor.empty(1, tokens, processor.default_slots(tokens))


def _with_pixels(images: Any, processor: Processor) -> Any:
    """Rows of images with zeros for pixels in place of features."""
    rows, slots, _ = getattr(images, processor.values).shape
    shape = (rows, slots, *getattr(_images(processor), processor.values).shape[2:])
    return images._replace(**{processor.values: jnp.zeros(shape, jnp.uint8)})
