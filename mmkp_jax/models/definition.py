"""A model without its numbers: the module's structure, separate from a plain nested dict of parameters.

The train state consists of such dicts; inside `jax.jit` they are bound to the structure, at no run-time cost.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from mmkp_jax.data.processor import Processor
from mmkp_jax.models.family import Family
from mmkp_jax.models.model import Layer, Model

Params = dict[str, Any]
"""A nested dict with arrays (or their shapes, axes, shardings) as leaves; its paths are joined by dots."""


class Definition(NamedTuple):
    """A model's family, config and structure; hashable parts only, so a step can close over it."""

    family: Family
    config: Any
    graph: nnx.GraphDef
    state: nnx.State
    """The abstract parameters: `jax.ShapeDtypeStruct`s."""
    layers: tuple[Layer, ...]
    """The decoder's layers, in order."""

    @property
    def processor(self) -> Processor:
        """The processor of the model's images, with the family's default settings."""
        return self.family.processor(self.config, {})

    def shapes(self) -> Params:
        """The float32 shape of every parameter."""
        return nnx.to_pure_dict(self.state)

    def logical_axes(self) -> Params:
        """The names of every parameter's axes."""
        named = [(path, leaf.get_metadata("logical_axes")) for path, leaf in nnx.to_flat_state(self.state)]
        return unflatten({".".join(path): axes for path, axes in named})

    def bind(self, params: Params) -> Model:
        """The module with the parameters `params`."""
        state = jax.tree.map(lambda leaf: leaf, self.state)  # replaced below, so a copy
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self.graph, state)


def define_from(family: Family, config: Any, **options: Any) -> Definition:
    """The family's model of `config`, with nothing allocated; `options` go to its module."""
    module = nnx.eval_shape(lambda: family.build(config, rngs=nnx.Rngs(0), **options))
    return Definition(family, config, *nnx.split(module), module.layers())


def flatten(tree: Params) -> dict[str, Any]:
    """Leaves by dotted path, in the order of the tree."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{path}": leaf for path, leaf in flatten(value).items()})
        else:
            flat[name] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The nested dict of leaves by dotted path."""
    tree: Params = {}
    for path, leaf in flat.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def random_params(definition: Definition, seed: int, spread: float = 0.02) -> Params:
    """Random float32 numbers for every parameter, norms around 1 and biases around 0, none exactly there."""
    generator = np.random.default_rng(seed)

    def draw(path: str, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        numbers = generator.standard_normal(shape.shape, np.float32) * np.float32(spread)
        return numbers + np.float32(path.endswith(".scale"))

    return unflatten({path: draw(path, shape) for path, shape in flatten(definition.shapes()).items()})
