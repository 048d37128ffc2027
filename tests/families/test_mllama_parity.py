"""Llama 3.2 Vision's blocks against transformers', each with transformers' own input; logits are in `test_zoo_parity`.

All float32 on CPU. Bound: 1e-5 of the largest value compared. No tensor is at its initial value: gates, class token and
embeddings are 0 in a fresh model, and would hide what they scale. transformers takes the outputs of the layers whose
inputs are features, so it is given the ones before (`zoo_mllama.reference_config`).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmkp_jax.families.mllama.tower import intervals_of
from mmkp_jax.models.model import attend_by
from mmkp_jax.ops.attention import DENSE
from mmkp_jax.ops.backends import ANY_ROWS
from tests.support.needs_torch import needs_torch
from tests.support.parity import BOUND, relative_error
from tests.support.zoo import all_geometries, forest_of, model_of, random_tree, reference_of, their_inputs

GEOMETRIES = [param for param in all_geometries() if param.values[0] == "mllama"]


def assert_close(ours, theirs) -> None:
    error = relative_error(ours, theirs)
    print(f"error {error:.2e} of the largest value")
    assert error <= BOUND


@pytest.mark.parametrize("name, geometry", GEOMETRIES)
def test_blocks_equal_transformers(name, geometry):
    """Embedding, both stages of the tower, features with the taps, projector, both kinds of decoder layers."""
    model = model_of(name, geometry)
    tree = random_tree(7, model, images=[1, 2], cot=0)
    seen = record(reference_of(name, geometry), their_inputs(model, tree, [*tree.prompt, *tree.sft[:-1]]))
    forest = jax.tree.map(jnp.asarray, forest_of([[tree]], model))
    ours, config = model.definition.bind(model.params), model.definition.config
    tower, canvas_N = config.vision, forest.images.canvas_BJ[0]

    order = our_order(tower)
    keys = tower.max_tiles * tower.tile_keys
    embedded = ours.tower.embed(forest.images.patch_BJZPC[0], canvas_N, jnp.float32)
    assert_close(embedded.reshape(len(canvas_N), keys, -1), seen["block 0"][0][:, order[:keys]])

    attend = DENSE.intervals(*intervals_of(canvas_N, tower), tower.slots)
    for stack, kind, last in (
        (ours.tower.blocks, "block", tower.depth - 1),
        (ours.tower.global_blocks, "global", tower.global_depth - 1),
    ):
        for i in {0, last}:
            x, out = (each[:, order] for each in seen[f"{kind} {i}"])
            assert_close(layer_of(stack, i)(x, attend), out)
    assert_close(
        ours.tower.between(seen[f"block {tower.depth - 1}"][1][:, order], canvas_N), seen["global 0"][0][:, order]
    )

    features = ours.encode(forest.images, jnp.float32)
    assert_close(features[0].reshape(len(canvas_N), keys, -1), seen["projector"][0].reshape(len(canvas_N), keys, -1))
    x, out = seen["projector"]
    assert_close(ours.projector(x), out)

    attend = attend_by(ANY_ROWS, forest, ours.memory(forest, features, jnp.float32))
    rotation = ours.rotation(forest.position_BTA)
    for stack, kind, i in ((ours.decoder.layers, "self", 1), (ours.decoder.cross, "cross", config.cross_layers - 1)):
        x, out = seen[f"{kind} {i}"]
        assert_close(layer_of(stack, i)(x, rotation, attend), out)


def our_order(tower) -> np.ndarray:
    """transformers' number of each of our tokens in the tower: there, padding comes at the end of every tile."""
    number = np.arange(tower.slots).reshape(tower.max_tiles, -1)
    return np.concatenate([number[:, : tower.tile_keys].ravel(), number[:, tower.tile_keys :].ravel()])


def record(model, inputs) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(input, output) of the blocks, from one run of transformers' model."""
    seen = {}

    def hook(name):
        def keep(_, args, kwargs, out):
            x = args[0] if args else kwargs["hidden_states"]
            seen[name] = tuple(np.asarray(t[0] if isinstance(t, tuple) else t) for t in (x, out))

        return keep

    vision, text = model.model.vision_model, model.model.language_model
    cross = [layer for i, layer in enumerate(text.layers) if i in text.cross_attention_layers]
    own = [layer for i, layer in enumerate(text.layers) if i not in text.cross_attention_layers]
    named = {"projector": model.model.multi_modal_projector}
    for kind, layers in (
        ("block", vision.transformer.layers),
        ("global", vision.global_transformer.layers),
        ("self", own),
        ("cross", cross),
    ):
        named |= {f"{kind} {i}": layer for i, layer in enumerate(layers)}
    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in named.items()]
    with needs_torch().no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


def layer_of(stack, i: int):
    """Layer i of a stack, as a module."""
    graph, state = nnx.split(stack)
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.asarray(leaf)[i], state))
