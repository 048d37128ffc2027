"""Rows with a frozen tower's features in place of pixels give the losses and gradients of rows with pixels."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.feature_store import FeatureKind
from mmkp_jax.data.forest import RowSize, pack_rows
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.families.registry import define, known_config
from mmkp_jax.models.definition import define_from, flatten, random_params, unflatten
from mmkp_jax.models.digest import digests_of
from mmkp_jax.models.features import as_values, feature_kind, params_read, vector_width
from mmkp_jax.models.flops import step_flops, work_of
from mmkp_jax.models.freezing import join_params, split_params
from mmkp_jax.models.mfu import needed_flops
from mmkp_jax.training.step import forest_losses
from tests.decoding.test_cross_attention import tree as toy_tree
from tests.support import toy_cross, zoo
from tests.support.tiny import tiny_config
from tests.support.toy_family import ToyConfig
from tests.support.trees import processor_of, random_tree, row_size

CONFIG = tiny_config()
FREEZE = ("tower",)
GRIDS = [[(4, 6)], [(12, 10)], [], [(6, 6), (4, 4)], [(10, 4)]]
"""Images of the trees: whole and partial windows, none, and two."""


@pytest.mark.parametrize(
    "name, vector, slot",
    [("Qwen/Qwen2.5-VL-3B-Instruct", 1280, 1280), ("OpenGVLab/InternVL3-2B-hf", 4096, 256 * 4096)],
)
def test_published_towers_have_features_of_known_width(name, vector, slot):
    definition = define(known_config(name))
    assert vector_width(definition, jnp.bfloat16) == vector
    assert feature_kind(definition, jnp.bfloat16) == FeatureKind(slot, "uint16")


def qwen():
    trees = [random_tree(i, CONFIG, grids=grids) for i, grids in enumerate(GRIDS)]
    rows = [trees[:2], trees[2:], []]
    definition = define_from(FAMILY, CONFIG)
    return definition, random_params(definition, 0, spread=0.1), rows, row_size(rows, CONFIG, spare=2)


def cross():
    definition = define_from(toy_cross.FAMILY, ToyConfig(300, 2, tie_embeddings=True))
    rows = [[toy_tree(0, 2, 4, 6), toy_tree(1, 0, 4, 6)], [toy_tree(2, 3, 4, 6)]]
    return definition, random_params(definition, 4, spread=0.6), rows, RowSize(128, 48, 4, {"tiles": 8})


def of_zoo(name):
    """A model of the zoo, on posts with one image, several or none."""
    (case,) = zoo.first_geometries(name)
    model = zoo.model_of(*case.values)
    trees = [zoo.random_tree(i, model, images=images) for i, images in enumerate([(0,), (1,), (), (2, 0)])]
    rows = [trees[:2], trees[2:]]
    return model.definition, model.params, rows, zoo.row_size(rows, model.processor, spare=1)


def with_features(definition, params, rows, dtype):
    """The rows with features in place of pixels, each image computed alone."""
    processor, params = definition.processor, jax.tree.map(jnp.asarray, params)
    encode = jax.jit(lambda images: definition.bind(params).encode(images, dtype))
    first = processor.slots[0]
    slots = [layout.slots for trees in rows for tree in trees for layout in tree.layouts]
    most = {kind: n + -n % 4 for kind, n in zip(processor.slots, map(max, zip(*slots, strict=True)), strict=True)}

    def features(layout, pixels):
        images = processor.empty(1, 200, most)
        row = type(images)(*(array[0] for array in images))
        processor.lay(row, layout, pixels, number=1, token=0, starts=(0,) * len(processor.slots))
        return np.asarray(as_values(encode(images), most[first]))[0, : layout.slots[0]]

    return [
        [
            dataclasses.replace(tree, pixels=(), features=tuple(map(features, tree.layouts, tree.pixels)))
            for tree in trees
        ]
        for trees in rows
    ]


@pytest.mark.parametrize(
    "made, dtype, bound",
    [
        (qwen, jnp.float32, 1e-6),  # the same products, summed in another order: rows of another length
        pytest.param(cross, jnp.float32, 1e-6, marks=pytest.mark.nightly),
        pytest.param(functools.partial(of_zoo, "internvl"), jnp.float32, 1e-6, marks=pytest.mark.nightly),
        pytest.param(functools.partial(of_zoo, "mllama"), jnp.float32, 1e-6, marks=pytest.mark.nightly),
        pytest.param(qwen, jnp.bfloat16, 2e-2, marks=pytest.mark.nightly),  # the same, rounded to 8 bits in each layer
    ],
)
def test_losses_and_gradients_with_features_equal_those_with_pixels(made, dtype, bound):
    definition, params, rows, size = made()
    read = set(params_read(definition, dtype))
    flat = flatten(params)
    frozen = unflatten({path: flat[path] for path in read})
    trainable = unflatten({path: leaf for path, leaf in flat.items() if path not in read})
    kind = feature_kind(definition, dtype)
    pixels = pack_rows(rows, size, definition.processor)
    features = pack_rows(with_features(definition, params, rows, dtype), size, definition.processor, kind)

    @jax.jit
    def gradients(trainable, frozen, forest):
        def loss(trainable):
            losses = forest_losses(definition, join_params(trainable, frozen), forest, examples=4, dtype=dtype)
            return losses.sft_BS.sum() + losses.cot_BS.sum(), losses

        return jax.grad(loss, has_aux=True)(trainable)

    expected, losses = gradients(trainable, frozen, pixels)
    nowhere = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), frozen)  # the tower is not computed at all
    found, same = gradients(trainable, nowhere, features)
    for one, other in zip(losses[:2], same[:2], strict=True):
        np.testing.assert_allclose(other, one, rtol=bound)
    for path, gradient in flatten(expected).items():
        error = np.linalg.norm(flatten(found)[path] - gradient)
        assert error <= 10 * bound * np.linalg.norm(gradient), path


def test_features_depend_on_the_tower_alone():
    definition = define_from(FAMILY, CONFIG)
    _, frozen = split_params(definition.shapes(), FAMILY.paths(FREEZE))
    assert set(params_read(definition, jnp.float32)) == set(flatten(frozen))
    assert feature_kind(definition, jnp.bfloat16) == FeatureKind(CONFIG.vision.hidden_size, "uint16")
    other = define_from(toy_cross.FAMILY, ToyConfig(300, 3, tie_embeddings=True))
    assert params_read(other, jnp.float32) == ("tower.bias", "tower.weight")
    assert feature_kind(other, jnp.float32) == FeatureKind(toy_cross.KEYS * 16, "float32")


def test_the_fingerprint_sees_every_weight_its_place_and_its_dtype():
    params = {"a": {"w": np.arange(12, dtype=np.float32).reshape(3, 4)}, "b": np.ones(5, np.float32)}
    named = [digests_of(jax.tree.map(jnp.asarray, params))]
    params["a"]["w"][2, 3] = np.nextafter(params["a"]["w"][2, 3], 0, dtype=np.float32)
    named.append(digests_of(params))
    params["a"]["w"][[0, 1]] = params["a"]["w"][[1, 0]]
    named += [digests_of(params), digests_of({"c": params["a"], "b": params["b"]})]
    named.append(digests_of(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)))
    assert len({str(each) for each in named}) == 5
    assert digests_of(params) == named[2]


def test_the_tower_is_not_counted_in_rows_of_features():
    definition, _, rows, size = qwen()
    pixels = pack_rows(rows, size, processor_of(CONFIG))
    tree = dataclasses.replace(rows[0][0], pixels=(), features=(np.zeros((24, 32), np.float32),))
    features = pack_rows([[tree]], size, processor_of(CONFIG), FeatureKind(32, "float32"))
    of = step_flops(definition, FREEZE, work_of(pixels, definition.processor))
    assert needed_flops(definition, FREEZE, pixels) == pytest.approx(sum(part.total for part in of.values()))
    alone = pack_rows([rows[0][:1]], size, processor_of(CONFIG))
    tower = step_flops(definition, FREEZE, work_of(alone, definition.processor))["tower"].total
    assert needed_flops(definition, FREEZE, alone) - needed_flops(definition, FREEZE, features) == pytest.approx(tower)
