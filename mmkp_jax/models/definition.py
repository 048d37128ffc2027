"""A model without its numbers: the module's structure, separate from a plain nested dict of parameters.

The train state consists of such dicts; inside `jax.jit` they are bound to the structure, at no run-time cost.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from mmkp_jax.data.processor import Processor
from mmkp_jax.models.family import Family, Names
from mmkp_jax.models.lora import Lora, Pair, adapt, adapter_sources, is_adapter, pairs, with_dropout
from mmkp_jax.models.model import Layer, Model
from mmkp_jax.models.nf4 import ABSMAX, is_quantised, unquantised_shape

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
    lora: Lora | None = None
    adapters: Mapping[str, Pair] = MappingProxyType({})
    """Adapters by the path of their linear."""

    @property
    def processor(self) -> Processor:
        """The processor of the model's images, with the family's default settings."""
        return self.family.processor(self.config, {})

    def shapes(self) -> Params:
        """The float32 shape of every parameter; the codes of a matrix in 4 bits are uint8."""
        return nnx.to_pure_dict(self.state)

    def base_shapes(self) -> Params:
        """The float32 shape of every parameter that is published: without adapters, no matrix in 4 bits."""
        return base_shapes(self.shapes())

    @property
    def adapter_names(self) -> Names:
        """PEFT's names of the adapters' parameters, without its prefix."""
        return Names(adapter_sources(self.adapters, self.family.names))

    def logical_axes(self) -> Params:
        """The names of every parameter's axes."""
        named = [(path, leaf.get_metadata("logical_axes")) for path, leaf in nnx.to_flat_state(self.state)]
        return unflatten({".".join(path): axes for path, axes in named})

    def bind(self, params: Params, dropout_key: jax.Array | None = None) -> Model:
        """The module with the parameters `params`; its adapters have dropout only if there is a key for it."""
        state = jax.tree.map(lambda leaf: leaf, self.state)  # replaced below, so a copy
        nnx.replace_by_pure_dict(state, params)
        module = nnx.merge(self.graph, state)
        return module if dropout_key is None else with_dropout(module, dropout_key)


def define_from(family: Family, config: Any, *, lora: Lora | None = None, **options: Any) -> Definition:
    """The family's model of `config`, with nothing allocated; `options` go to its module.

    Raises:
        InputError: `lora` does not fit the model (`models.lora.adapt`).
    """

    def build() -> nnx.Module:
        module = family.build(config, rngs=nnx.Rngs(0), **options)
        if lora is not None:
            adapt(module, family, lora)
        return module

    module = nnx.eval_shape(build)
    graph, state = nnx.split(module)
    definition = Definition(family, config, graph, state, module.layers())
    if lora is None:
        return definition
    return definition._replace(lora=lora, adapters=pairs(module, flatten(definition.shapes())))


def base_shapes(shapes: Params) -> Params:
    """Shapes of the published parameters that a model's are made of: no adapters, no matrices in 4 bits."""
    found = {}
    for path, leaf in flatten(shapes).items():
        if is_adapter(path) or path.endswith(f".{ABSMAX}"):
            continue
        path, shape = unquantised_shape(path, leaf.shape)
        found[path] = leaf if shape == leaf.shape else jax.ShapeDtypeStruct(shape, np.float32)
    return unflatten(found)


def as_dtype(structs: Params, dtype: Any) -> Params:
    """The structs with another dtype; matrices in 4 bits keep theirs."""
    flat = flatten(structs)
    return unflatten({path: leaf if is_quantised(path) else leaf.update(dtype=dtype) for path, leaf in flat.items()})


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
