"""Logits of packed rows are transformers', in every family: the same random weights, each post alone there.

All float32 on CPU. Bound: 1e-5 of the largest value compared; both sides differ from float64 by a few 1e-7 of it, and
random weights add that up over layers.
"""

import pytest

from mmkp_jax.data.forest import COT, SFT
from tests.support.parity import BOUND, our_logits, relative_error, sequence
from tests.support.zoo import all_geometries, forest_of, model_of, random_tree, their_logits

POSTS = {
    "small image": dict(images=[0]),
    "another image": dict(images=[1], cot=0),
    "two images": dict(images=[2, 0]),
    "no image": dict(images=[]),
    "positions beyond 2,000": dict(images=[2], text=2050),
}


OTHERS = [each for each in all_geometries() if each.values[0] != "qwen2_5_vl"]
"""`test_parity.py` has more geometries of Qwen2.5-VL."""


@pytest.mark.parametrize("name, geometry", OTHERS)
def test_logits_of_packed_rows_equal_transformers_alone(name, geometry):
    """Every kind of post, both targets of each, two rows: all logits of all positions."""
    model = model_of(name, geometry)
    trees = [random_tree(i, model, **kind) for i, kind in enumerate(POSTS.values())]
    rows = [trees[:4], trees[4:]]
    forest = forest_of(rows, model, spare=5)
    logits_BTV = our_logits(model.definition, model.params, forest)
    for row, of_row in enumerate(rows):
        for segment, tree in enumerate(of_row, start=1):
            for branch, target in ((SFT, tree.sft), (COT, tree.cot)):
                if len(target) == 0:
                    continue
                ours = logits_BTV[row, sequence(forest, row, segment, branch)]
                error = relative_error(ours, their_logits(model, tree, target))
                print(f"error {error:.2e} of the largest value")
                assert error <= BOUND
