"""Our Qwen2.5-VL against transformers': the same random weights, read from one folder.

All float32 on CPU. Bound: 1e-5 of the largest value compared; both sides differ from float64 by a few 1e-7 of it, and
random weights add that up over layers.
"""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmkp_jax.data.forest import COT, SFT
from mmkp_jax.families.qwen2_5_vl.geometry import patch_layout
from mmkp_jax.families.qwen2_5_vl.model import mrope_rotation, vision_rotation
from mmkp_jax.models.model import Attend
from mmkp_jax.models.rope import rotary_frequencies
from mmkp_jax.ops.attention import DENSE
from mmkp_jax.ops.tiles import lay_tiles
from tests.support.needs_torch import needs_torch
from tests.support.parity import BOUND, our_logits, pair_of, relative_error, sequence, their_inputs, their_logits
from tests.support.tiny import tiny_config
from tests.support.trees import forest_of, random_tree

_TOWER = tiny_config().vision
GEOMETRIES = {
    "tied, 2 of 4 kv heads": tiny_config(),
    "untied, 4 of 8 kv heads": tiny_config(
        tie_embeddings=False, num_heads=8, num_kv_heads=4, mrope_section=(1, 2, 1), rope_theta=10_000.0
    ),
    "published heads and sections": tiny_config(
        hidden_size=512,
        num_heads=4,
        num_kv_heads=2,
        num_layers=2,
        mrope_section=(16, 24, 24),
        vision=dataclasses.replace(_TOWER, hidden_size=160, num_heads=2, out_hidden_size=512),
    ),
    "one kv head, deeper tower": tiny_config(
        num_kv_heads=1,
        rms_norm_eps=1e-5,
        vision=dataclasses.replace(_TOWER, depth=6, num_heads=4, full_attention_layers=(2, 5)),
    ),
}
POSTS = {
    "small image": dict(grids=[(4, 4)]),
    "three windows a side and partial ones": dict(grids=[(40, 26)]),
    "whole windows": dict(grids=[(24, 24)]),
    "two images": dict(grids=[(10, 18), (6, 4)]),
    "no image": dict(grids=[]),
    "positions beyond 2,000": dict(grids=[(8, 12)], text=2050),
}


BY_DEFAULT = ("tied, 2 of 4 kv heads", "published heads and sections")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(config, id=name, marks=() if name in BY_DEFAULT else pytest.mark.nightly)
        for name, config in GEOMETRIES.items()
    ],
)
def pair(request, tmp_path_factory):
    return pair_of(request.param, tmp_path_factory.mktemp("model"))


def assert_close(ours, theirs) -> None:
    error = relative_error(ours, theirs)
    print(f"error {error:.2e} of the largest value")
    assert error <= BOUND


def test_logits_of_packed_rows_equal_transformers_alone(pair):
    """Every kind of post, both targets of each, two rows: all logits of all positions."""
    theirs, definition, params = pair
    config = definition.config
    trees = [random_tree(i, config, **kind) for i, kind in enumerate(POSTS.values())]
    rows = [trees[:5], trees[5:]]
    forest = forest_of(rows, config, spare=5)
    logits_BTV = our_logits(definition, params, forest)
    for row, of_row in enumerate(rows):
        for segment, tree in enumerate(of_row, start=1):
            for branch, target in ((SFT, tree.sft), (COT, tree.cot)):
                ours = logits_BTV[row, sequence(forest, row, segment, branch)]
                assert_close(ours, their_logits(theirs, tree, target, config))


def test_blocks_equal_transformers(pair):
    """Patch embedding, a windowed block, a full one, the merger, a decoder layer: each with transformers' own input."""
    theirs, definition, params = pair
    config = definition.config
    tree = random_tree(7, config, grids=[(40, 26), (10, 18)], cot=0)
    forest = jax.tree.map(jnp.asarray, forest_of([[tree]], config))
    seen = record(theirs, their_inputs(tree, tree.sft, config))
    model = definition.bind(params)
    tower = model.visual

    order = np.asarray(seen["patch_embed"][1])  # image-processor order; ours is window order
    layout = np.concatenate(
        [_window_order(layout.shape, config, start) for layout, start in zip(tree.layouts, (0, 1040), strict=True)]
    )
    assert_close(tower.patch_embed(forest.images.patch_BPC, jnp.float32)[0], order[layout])

    rotation = vision_rotation(forest.images.patch_position_BP2, config.vision)
    tiles = lay_tiles(forest.images.window_BW, forest.images.image_BP.shape[1], config.vision.tile_size)
    attend = DENSE.images(forest.images.image_BP)
    for i in (0, config.vision.full_attention_layers[0]):
        x, out = seen[f"block {i}"]
        full = i in config.vision.full_attention_layers
        assert_close(layer_of(tower.blocks, i)(x[None], rotation, tiles, attend, full)[0], out)

    x, out = seen["merger"]
    assert_close(tower.merger(x[None])[0], out)

    x, out = seen["decoder layer"]
    attend = Attend(DENSE.forest(forest.segment_BT, forest.branch_BT))
    assert_close(layer_of(model.decoder.layers, 1)(x, mrope_rotation(forest.position_BTA, config), attend), out)


def record(model, inputs) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(input, output) of the blocks, from one run of transformers' model."""
    seen = {}

    def hook(name):
        def keep(_, args, kwargs, out):
            x = args[0] if args else kwargs["hidden_states"]
            seen[name] = tuple(np.asarray(t[0] if isinstance(t, tuple) else t) for t in (x, out))

        return keep

    visual, text = model.model.visual, model.model.language_model
    named = {"patch_embed": visual.patch_embed, "merger": visual.merger, "decoder layer": text.layers[1]}
    named |= {f"block {i}": block for i, block in enumerate(visual.blocks)}
    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in named.items()]
    with needs_torch().no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


def _window_order(grid, config, start: int) -> np.ndarray:
    return start + patch_layout(grid, window_side=config.vision.window_side).source_P


def layer_of(stack, i: int):
    """Layer i of a stack, as a module."""
    graph, state = nnx.split(stack)
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.asarray(leaf)[i], state))


def test_bf16_is_as_near_to_float32_as_transformers_is(pair, record_property):
    """Both computed in bf16; the figure is the largest error over the largest float32 logit."""
    theirs, definition, params = pair
    config = definition.config
    tree = random_tree(3, config, grids=[(40, 26)], cot=0)
    exact = their_logits(theirs, tree, tree.sft, config)
    forest = forest_of([[tree]], config)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    ours = our_logits(definition, half, forest, jnp.bfloat16)[0]
    torch = needs_torch()
    theirs_half = their_logits(copy.deepcopy(theirs).to(torch.bfloat16), tree, tree.sft, config)
    scale = np.abs(exact).max()
    figure = {
        "ours": np.abs(ours - exact).max() / scale,
        "theirs": np.abs(theirs_half - exact).max() / scale,
        "between": np.abs(ours - theirs_half).max() / scale,
    }
    for name, value in figure.items():
        record_property(name, f"{value:.2e}")
    print("bf16 logits, error over the largest:", {name: f"{value:.2e}" for name, value in figure.items()})
    assert figure["ours"] <= 2 * figure["theirs"]  # of the same size: the largest of many roundings, which differ


@pytest.mark.parametrize("width, theta", [(128, 1e6), (16, 1e6), (40, 1e4), (80, 1e4)])
def test_rotary_frequencies_are_torchs_but_for_a_last_bit_here_and_there(width, theta):
    torch = needs_torch()
    theirs = (1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float) / width)).numpy()
    ours = rotary_frequencies(width, theta)
    np.testing.assert_array_max_ulp(ours, theirs, maxulp=1)
    assert (ours != theirs).mean() <= 0.05
