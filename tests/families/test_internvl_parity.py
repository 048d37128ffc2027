"""Our InternVL3 against transformers': the same random weights, read from one folder.

All float32 on CPU. Bound: 1e-5 of the largest value compared; both sides differ from float64 by a few 1e-7 of it, and
random weights add that up over layers. No tensor is at its initial value (`tiny_internvl.internvl_params`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmkp_jax.data.forest import COT, SFT
from mmkp_jax.families.internvl.tiles import merge_order
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.definition import flatten
from mmkp_jax.models.model import Attend
from mmkp_jax.models.rope import Rope
from mmkp_jax.ops.attention import DENSE
from tests.support.needs_torch import needs_torch
from tests.support.parity import BOUND, our_logits, relative_error, sequence
from tests.support.tiny_internvl import (
    hf_internvl,
    inputs_of,
    internvl_rows,
    internvl_tree,
    tiny_internvl,
    write_internvl,
)

_TOWER = tiny_internvl().vision
GEOMETRIES = {
    "tiles of 4 tokens": tiny_internvl(),
    "tiles of 16 tokens, one kv head": tiny_internvl(
        num_kv_heads=1,
        rms_norm_eps=1e-5,
        rope=Rope(1e4),
        vision=dataclasses.replace(_TOWER, image_size=112, depth=4, num_heads=4),
    ),
    "published heads": tiny_internvl(
        hidden_size=512,
        head_dim=128,
        num_layers=2,
        vision=dataclasses.replace(_TOWER, hidden_size=128, num_heads=2, intermediate_size=512),
    ),
    "published tiles": tiny_internvl(vision=dataclasses.replace(_TOWER, image_size=448, depth=2)),
}
POSTS = {
    "one tile": dict(grids=[(1, 1)]),
    "a grid and its thumbnail": dict(grids=[(2, 3)]),
    "two images": dict(grids=[(3, 1), (1, 1)]),
    "no image": dict(grids=[]),
    "positions beyond 2,000": dict(grids=[(1, 2)], text=2050),
}
BY_DEFAULT = ("tiles of 4 tokens",)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(config, id=name, marks=() if name in BY_DEFAULT else pytest.mark.nightly)
        for name, config in GEOMETRIES.items()
    ],
)
def pair(request, tmp_path_factory):
    """transformers' model, our definition and our parameters, both read from one folder."""
    needs_torch()
    folder = tmp_path_factory.mktemp("model")
    write_internvl(folder, request.param)
    opened = open_folder(str(folder))
    definition = define(opened.config)
    assert definition.config == dataclasses.replace(request.param, tie_embeddings=False)
    return hf_internvl(folder), definition, load_params(opened, definition.shapes())


def assert_close(ours, theirs) -> None:
    error = relative_error(ours, theirs)
    print(f"error {error:.2e} of the largest value")
    assert error <= BOUND


@pytest.mark.nightly
def test_logits_of_packed_rows_equal_transformers_alone(pair):
    """Every kind of post, both targets of each: all logits. By default `test_zoo_parity.py` has one geometry."""
    theirs, definition, params = pair
    config = definition.config
    trees = [internvl_tree(i, config, **kind) for i, kind in enumerate(POSTS.values())]
    rows = [trees[:4], trees[4:]]
    forest = internvl_rows(rows, config, spare=1)
    logits_BTV = our_logits(definition, params, forest)
    for row, of_row in enumerate(rows):
        for segment, tree in enumerate(of_row, start=1):
            for branch, target in ((SFT, tree.sft), (COT, tree.cot)):
                ours = logits_BTV[row, sequence(forest, row, segment, branch)]
                with needs_torch().no_grad():
                    logits = theirs(**inputs_of(tree, target, config)).logits[0].numpy()
                assert_close(ours, logits)


def test_blocks_equal_transformers(pair):
    """Embedding of tiles, two blocks of the tower, projector, a decoder layer: each with transformers' own input."""
    theirs, definition, params = pair
    config = definition.config
    tree = internvl_tree(7, config, grids=[(1, 2), (1, 1)], cot=0)
    forest = jax.tree.map(jnp.asarray, internvl_rows([[tree]], config))
    seen = record(theirs, inputs_of(tree, tree.sft, config))
    model = definition.bind(params)
    tower, tiles = model.tower, forest.images.tile_BLPC[0]

    P = config.vision.patches
    order = np.append(1 + merge_order(config.vision.side, 2), 0)  # ours: merge order, and the class token last
    assert_close(tower.embed(tiles, jnp.float32), seen["embed"][1][:, order])

    attend = DENSE.images(jnp.ones((len(tiles), P + 1), jnp.int32))
    for i in (0, config.vision.depth - 1):
        x, out = (each[:, order] for each in seen[f"block {i}"])
        assert_close(layer_of(tower.blocks, i)(x, attend), out)

    x, out = seen["projector"]
    assert_close(model.projector(x), out)
    merged = model.projector(model.encode(forest.images, jnp.float32))[0]
    assert_close(merged, out.reshape(merged.shape))  # tower, pixel shuffle and projector together

    x, out = seen["decoder layer"]
    attend = Attend(DENSE.forest(forest.segment_BT, forest.branch_BT))
    assert_close(layer_of(model.decoder.layers, 1)(x, model.rotation(forest.position_BTA), attend), out)


def record(model, inputs) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(input, output) of the blocks, from one run of transformers' model."""
    seen = {}

    def hook(name):
        def keep(_, args, kwargs, out):
            x = args[0] if args else kwargs["hidden_states"]
            seen[name] = tuple(np.asarray(t[0] if isinstance(t, tuple) else t) for t in (x, out))

        return keep

    tower, text = model.model.vision_tower, model.model.language_model
    named = {"embed": tower.embeddings, "projector": model.model.multi_modal_projector, "decoder layer": text.layers[1]}
    named |= {f"block {i}": block for i, block in enumerate(tower.encoder.layer)}
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


def test_the_original_layout_gives_the_same_parameters(tmp_path):
    """Fused queries, keys and values, other names: the numbers are those of the other folder, bit by bit."""
    loaded = []
    for layout in ("internvl", "internvl_chat"):
        write_internvl(tmp_path / layout, layout=layout)
        folder = open_folder(str(tmp_path / layout))
        definition = define(folder.config)
        loaded.append(flatten(load_params(folder, definition.shapes())))
        config = definition.config
        assert config == tiny_internvl(tie_embeddings=False, own_template=layout == "internvl")
    theirs, ours = loaded
    assert theirs.keys() == ours.keys()
    for path, array in theirs.items():
        np.testing.assert_array_equal(array, ours[path], err_msg=path)
