"""How posts fit rows: the numbers are those of the functions that training plans with."""

import dataclasses

import numpy as np
import pytest

from mmkp_jax.data.examples import BOTH
from mmkp_jax.data.plan import plan_epoch
from mmkp_jax.data.row_fit import fit_rows, one_of_each_kind
from mmkp_jax.data.size_index import Lengths, measure_posts, select_posts, sizes_of
from tests.support.posts_on_disk import SIZE


@pytest.fixture(scope="module")
def lengths(split, recipe):
    return measure_posts(split, recipe)


@pytest.mark.parametrize("branches", [BOTH, ("sft",), ("cot",)])
@pytest.mark.parametrize("tokens", [700, 190])
def test_the_posts_are_those_that_training_chooses_and_plans(lengths, branches, tokens):
    size = dataclasses.replace(SIZE, tokens=tokens)
    found = fit_rows(lengths, size, branches, batch_rows=3, seed=5)
    posts, left_out = select_posts(lengths, size, branches)
    assert found.posts.tolist() == posts.tolist() and found.left_out == left_out
    plan = plan_epoch(sizes_of(lengths, branches), size, seed=5, epoch=0, batch_rows=3, posts=posts)
    assert (found.rows, found.batches) == (plan.rows, len(plan))
    token_N = sizes_of(lengths, branches)[:, 0]
    assert found.tokens_N.tolist() == token_N.tolist()
    slots = found.slots["tokens"]
    assert (slots.row, slots.most) == (tokens, token_N.max())
    assert slots.fill == token_N[posts].sum() / (tokens * plan.rows)


def test_rows_that_no_post_fits_are_reported_too(lengths):
    found = fit_rows(lengths, dataclasses.replace(SIZE, tokens=3), BOTH, batch_rows=2, seed=0)
    assert (len(found.posts), found.rows, found.batches) == (0, 0, 0)
    assert len(found.left_out) == len(lengths.trunk_N)
    assert found.slots["tokens"].fill == 0


def test_one_post_of_each_kind_is_picked_the_commonest_first():
    patches, cot = [4, 4, 0, 4, 4, 0, 0], [9, 9, 9, 0, 9, 9, 0]
    nothing = np.zeros(7, np.int32)
    lengths = Lengths(nothing, nothing, np.array(cot), np.array(patches), nothing, nothing, np.arange(7).astype(str))
    trimmed = np.array([False, True, False, False, True, False, False])
    everyone = np.arange(7)
    assert one_of_each_kind(lengths, trimmed, everyone, most=9) == [2, 1, 6, 3, 0]
    assert one_of_each_kind(lengths, trimmed, everyone, most=2) == [2, 1]
    assert one_of_each_kind(lengths, trimmed, np.array([3, 4]), most=9) == [3, 4]
    assert one_of_each_kind(lengths, trimmed, np.array([], np.int64)) == []
