"""Llama 3.2 Vision's checks can fail: plausible mistakes with images, each of which must break one by 100 times its
bound."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.families.mllama import model as mllama
from mmkp_jax.families.mllama import tower
from mmkp_jax.models.definition import define_from
from mmkp_jax.training.step import forest_losses
from tests.support.alone import alone_loss
from tests.support.zoo import forest_of, model_of, random_tree

pytestmark = pytest.mark.nightly  # a check of checks, which run by default

BOUND = 1e-5
MODEL = model_of("mllama")
TREES = [random_tree(0, MODEL, images=[1], sft=3, cot=9), random_tree(1, MODEL, images=[2], sft=5, cot=6)]
FOREST = forest_of([TREES], MODEL, spare=1)
IMAGES = FOREST.images


@functools.cache
def alone() -> np.ndarray:
    """Each tree's losses alone, by the right code; computed before any mistake is made."""

    @jax.jit
    def losses(params):
        return [
            [alone_loss(MODEL.definition, params, tree, getattr(tree, target)) for target in ("sft", "cot")]
            for tree in TREES
        ]

    return np.asarray(losses(MODEL.params))


def error(images=IMAGES, definition=MODEL.definition, params=MODEL.params) -> float:
    """The largest relative error of the packed losses."""
    expected, forest = alone(), FOREST._replace(images=images)
    losses = jax.jit(lambda params: forest_losses(definition, params, forest, examples=2, dtype=jnp.float32))(params)
    packed = np.stack([losses.sft_BS[0], losses.cot_BS[0]], axis=-1)
    return float(np.abs(packed / expected - 1).max())


@functools.cache
def right() -> float:
    return error()


@pytest.fixture(autouse=True)
def without_a_mistake():
    """No mistake, no error: before each mutation."""
    assert right() <= BOUND


def assert_broken(**mistake) -> None:
    assert error(**mistake) >= 100 * BOUND


def test_another_trees_image_breaks_the_forest():
    """Each tree's image token gets the other's slot."""
    token_BJ = IMAGES.token_BJ.copy()
    token_BJ[0, :2] = token_BJ[0, 1::-1]
    assert_broken(images=IMAGES._replace(token_BJ=token_BJ))


def test_swapped_tiles_break_the_forest():
    tiles = IMAGES.patch_BJZPC.copy()
    tiles[0, 0, [0, 1]] = tiles[0, 0, [1, 0]]
    assert_broken(images=IMAGES._replace(patch_BJZPC=tiles))


def test_a_canvas_turned_round_breaks_the_forest():
    """1 x 2 and 2 x 1 tiles: as many, but other embeddings."""
    canvas_BJ = IMAGES.canvas_BJ.copy()
    assert canvas_BJ[0, 0] == 2
    canvas_BJ[0, 0] = 5
    assert_broken(images=IMAGES._replace(canvas_BJ=canvas_BJ))


@pytest.mark.parametrize("by", [-1, 1])
def test_a_tap_one_off_breaks_the_forest(by):
    """Outputs of the named layers instead of their inputs, as transformers has it from 4.56 on, are the latter."""
    config = MODEL.definition.config
    taps = tuple(tap + by for tap in config.vision.taps)
    config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, taps=taps))
    assert_broken(definition=define_from(MODEL.definition.family, config))


def without_tanh(gate, dtype):
    return gate[...].astype(dtype)


@pytest.mark.parametrize("module", [mllama, tower])
def test_a_gate_without_tanh_breaks_the_forest(module, monkeypatch):
    monkeypatch.setattr(module, "opened", without_tanh)
    assert_broken()


def everything(canvas_N, config):
    seen = jnp.zeros((len(canvas_N), config.slots), jnp.int32)
    return seen, seen + config.slots


def only_filled(canvas_N, config):
    first, _ = everything(canvas_N, config)
    return first, first + (tower.tiles_of(canvas_N, config.max_tiles) * config.tile_keys)[:, None]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name, value", [("intervals_of", everything), ("intervals_of", only_filled), ("gelu", jax.nn.relu)]
)
def test_a_mistake_in_the_tower_breaks_the_forest(name, value, monkeypatch):
    """Padding that sees padding, or that is not seen; another activation."""
    monkeypatch.setattr(tower, name, value)
    assert_broken()


def memory_with(change):
    right_one = mllama.Mllama.memory
    return lambda *args: change(right_one(*args))


@pytest.mark.parametrize(
    "change",
    [
        lambda memory: memory._replace(end_BT=jnp.where(memory.has_images_BT, memory.end_BT, memory.first_BT)),
        lambda memory: memory._replace(has_images_BT=memory.end_BT > memory.first_BT),
        lambda memory: memory._replace(end_BT=jnp.where(memory.has_images_BT, memory.first_BT + 68, memory.end_BT)),
    ],
    ids=["nothing before the image", "an MLP before the image", "empty tiles after the image"],
)
def test_a_mistake_in_what_tokens_see_breaks_the_forest(change, monkeypatch):
    """The 68 are four tiles of 17 tokens."""
    monkeypatch.setattr(mllama.Mllama, "memory", memory_with(change))
    assert_broken()


@pytest.mark.nightly
@pytest.mark.parametrize(
    "path",
    [
        *("embed.cls", "embed.position", "embed.tile", "embed.tile_position", "embed.tile_gate"),
        *("embed.position_gate", "between.tile", "global_blocks.attention_gate", "global_blocks.mlp_gate"),
    ],
)
def test_each_tensor_of_its_own_matters(path):
    """At the 0 of a fresh model they give other losses."""
    params = jax.tree.map(lambda leaf: leaf, MODEL.params)
    module, name = path.split(".")
    params["tower"][module][name] = np.zeros_like(params["tower"][module][name])
    assert jitted()(params) >= 100 * BOUND


@functools.cache
def jitted():
    """`error` by one program for all parameters."""
    run = jax.jit(lambda params: forest_losses(MODEL.definition, params, FOREST, examples=2, dtype=jnp.float32))

    def of(params) -> float:
        losses = run(params)
        return float(np.abs(np.stack([losses.sft_BS[0], losses.cot_BS[0]], axis=-1) / alone() - 1).max())

    return of
