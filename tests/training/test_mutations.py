"""The checks can fail: five plausible mistakes, each of which must break its check by at least 100 times its bound."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.families.qwen2_5_vl import model
from mmkp_jax.ops import sliced
from mmkp_jax.ops.attention import forest_mask
from mmkp_jax.ops.tiles import lay_tiles
from mmkp_jax.training import losses
from mmkp_jax.training.step import forest_losses
from tests.support.alone import alone_loss
from tests.support.parity import BOUND, our_logits, ours_in, pair_of, relative_error, sequence, their_logits
from tests.support.tiny import tiny_config
from tests.support.trees import forest_of, random_tree

pytestmark = pytest.mark.nightly  # a check of checks, which run by default

CONFIG = tiny_config()
TREES = [
    random_tree(0, CONFIG, grids=[(10, 18)], sft=3, cot=9),  # partial windows at two edges
    random_tree(1, CONFIG, sft=5, cot=6),
]
FOREST = forest_of([TREES], CONFIG, spare=2)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return ours_in(tmp_path_factory.mktemp("ours"), CONFIG)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return pair_of(CONFIG, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def parity_error(pair):
    """A function that returns the error of our logits against transformers', for the first tree's SFT target."""
    theirs, definition, params = pair
    expected = their_logits(theirs, TREES[0], TREES[0].sft, CONFIG)

    def error() -> float:
        return relative_error(our_logits(definition, params, FOREST)[0, sequence(FOREST, 0, 1, 1)], expected)

    return error


@pytest.fixture(scope="module")
def alone_error(ours):
    """A function of a forest: the largest relative error of the packed losses against each target alone."""
    definition, params = ours
    alone = [
        [alone_loss(definition, params, tree, getattr(tree, target)) for target in ("sft", "cot")] for tree in TREES
    ]

    def error(forest=FOREST) -> float:
        run = jax.jit(lambda p: forest_losses(definition, p, forest, examples=2, dtype=jnp.float32))
        losses = run(params)
        packed = np.stack([losses.sft_BS[0], losses.cot_BS[0]], axis=-1)
        return float(np.abs(packed / np.asarray(alone) - 1).max())

    return error


def test_both_checks_pass_without_a_mutation(parity_error, alone_error):
    assert parity_error() <= BOUND
    assert alone_error() <= BOUND


def test_a_wrong_mrope_section_breaks_parity(parity_error, monkeypatch):
    right = model.mrope_rotation
    wrong = dataclasses.replace(CONFIG, mrope_section=(3, 2, 3))
    monkeypatch.setattr(model, "mrope_rotation", lambda position, config: right(position, wrong))
    assert parity_error() >= 100 * BOUND


def test_a_missing_mask_of_partial_windows_breaks_parity(parity_error, monkeypatch):
    def unmasked(*args):
        tiles = lay_tiles(*args)
        return tiles._replace(filled_BWZ=jnp.ones_like(tiles.filled_BWZ))

    monkeypatch.setattr(model, "lay_tiles", unmasked)
    assert parity_error() >= 100 * BOUND


def test_a_leaked_branch_breaks_the_forest(alone_error, monkeypatch):
    def leaking(segment_BT, branch_BT, queries, keys):
        return forest_mask(segment_BT, jnp.zeros_like(branch_BT), queries, keys)

    monkeypatch.setattr(sliced, "forest_mask", leaking)
    assert alone_error() >= 100 * BOUND


def test_swapped_branches_break_the_forest(alone_error, monkeypatch):
    monkeypatch.setattr(losses, "SFT", losses.COT)
    monkeypatch.setattr(losses, "COT", 1)
    assert alone_error() >= 100 * BOUND


def test_labels_shifted_by_one_break_the_forest(alone_error):
    shifted = FOREST._replace(label_slot_BM=np.maximum(FOREST.label_slot_BM - 1, 0))
    assert alone_error(shifted) >= 100 * BOUND
