"""A model without its numbers: the module's structure, kept apart from a plain nested dict of parameters.

The train state is such dicts; inside `jax.jit` they are bound to the structure, which costs nothing at run time.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from mmkp_jax.data.forest import Geometry
from mmkp_jax.families.registry import family_of

Params = dict[str, Any]
"""A nested dict with arrays (or their shapes, axes, shardings) as leaves; its paths are joined by dots."""


class Definition(NamedTuple):
    """A model's config and structure; hashable parts only, so a step can close over it."""

    config: Any
    graph: nnx.GraphDef
    state: nnx.State
    """Abstract: `jax.ShapeDtypeStruct`s."""

    @property
    def geometry(self) -> Geometry:
        """What the layout of rows must know of the model."""
        vision = self.config.vision
        return Geometry(self.config.image_token_id, vision.window_side, vision.merge_size)

    def shapes(self) -> Params:
        """The float32 shape of every parameter."""
        return nnx.to_pure_dict(self.state)

    def logical_axes(self) -> Params:
        """The names of every parameter's axes."""
        named = [(path, leaf.get_metadata("logical_axes")) for path, leaf in nnx.to_flat_state(self.state)]
        return unflatten({".".join(path): axes for path, axes in named})

    def bind(self, params: Params) -> nnx.Module:
        """The module with `params` for its numbers."""
        state = jax.tree.map(lambda leaf: leaf, self.state)  # replaced below, so a copy
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self.graph, state)


def define(published: Mapping[str, Any], where: str = "config.json", **options: Any) -> Definition:
    """The model that a Hugging Face `config.json` (read at `where`) describes; `options` as the module takes them.

    Raises:
        InputError: the architecture or one of its settings is not implemented, or a field is missing.
    """
    family = family_of(published, where)
    return define_from(family.build, family.config_from_hf(published, where), **options)


def define_from(build: Callable[..., nnx.Module], config: Any, **options: Any) -> Definition:
    """The model that `build` makes of `config`, with nothing allocated."""
    module = nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0), **options))
    return Definition(config, *nnx.split(module))


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
