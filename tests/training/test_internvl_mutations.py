"""InternVL3's checks can fail: plausible mistakes with images, each of which must break one by 100 times its bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.families.internvl import model as internvl
from mmkp_jax.training.step import forest_losses
from tests.support.alone import alone_loss
from tests.support.zoo import forest_of, model_of, random_tree

pytestmark = pytest.mark.nightly  # a check of checks, which run by default

BOUND = 1e-5
MODEL = model_of("internvl")
TREES = [random_tree(0, MODEL, images=[1], sft=3, cot=9), random_tree(1, MODEL, images=[0, 2], sft=5, cot=6)]
FOREST = forest_of([TREES], MODEL, spare=1)


@functools.cache
def alone() -> np.ndarray:
    """Each tree's losses alone, by the right code; computed before any mistake is made."""
    loss = [
        [alone_loss(MODEL.definition, MODEL.params, tree, getattr(tree, target)) for target in ("sft", "cot")]
        for tree in TREES
    ]
    return np.asarray(loss)


def error(images=FOREST.images) -> float:
    """The largest relative error of the packed losses."""
    expected, forest = alone(), FOREST._replace(images=images)
    run = jax.jit(lambda params: forest_losses(MODEL.definition, params, forest, examples=2, dtype=jnp.float32))
    losses = run(MODEL.params)
    packed = np.stack([losses.sft_BS[0], losses.cot_BS[0]], axis=-1)
    return float(np.abs(packed / expected - 1).max())


@pytest.fixture(autouse=True)
def right():
    """No mistake, no error: before each mutation."""
    if not right_once():
        pytest.fail("the check fails without a mutation")


@functools.cache
def right_once() -> bool:
    return error() <= BOUND


def test_another_trees_image_breaks_the_forest():
    """The first tree's tokens take the tiles of the second's image."""
    images = FOREST.images
    merged_BT = np.array(images.merged_BT)
    first_T = (FOREST.segment_BT[0] == 1) & (merged_BT[0] >= 0)
    merged_BT[0, first_T] += int((images.image_BL[0] == 1).sum()) * MODEL.processor.tile_tokens
    assert error(images._replace(merged_BT=merged_BT)) >= 100 * BOUND


def test_swapped_tiles_break_the_forest():
    tiles = np.array(FOREST.images.tile_BLPC)
    tiles[0, [0, 1]] = tiles[0, [1, 0]]
    assert error(FOREST.images._replace(tile_BLPC=tiles)) >= 100 * BOUND


def test_patches_row_by_row_break_the_pixel_shuffle():
    order = np.argsort(internvl.merge_order(MODEL.definition.config.vision.side, 2))
    assert error(FOREST.images._replace(tile_BLPC=FOREST.images.tile_BLPC[:, :, order])) >= 100 * BOUND


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name, value",
    [("merge_order", lambda side, merge: np.arange(side * side)), ("gelu", jax.nn.relu), ("IMAGENET_STD", (0.5,) * 3)],
)
def test_a_mistake_in_the_model_breaks_the_forest(name, value, monkeypatch):
    alone()
    monkeypatch.setattr(internvl, name, value)
    assert error() >= 100 * BOUND


@pytest.mark.nightly
@pytest.mark.parametrize("path", ["embed.cls", "embed.position", "blocks.ls1", "blocks.ls2"])
def test_each_tensor_of_its_own_matters(path):
    """Class token, positions and layer scales at their initial values give other losses."""
    expected = alone()
    params = jax.tree.map(lambda leaf: leaf, MODEL.params)
    module, name = path.split(".")
    params["tower"][module][name] = np.full_like(params["tower"][module][name], 0.1 if "ls" in name else 0)
    losses = forest_losses(MODEL.definition, params, FOREST, examples=2, dtype=jnp.float32)
    assert np.abs(np.asarray(losses.sft_BS[0]) / expected[:, 0] - 1).max() >= 100 * BOUND
