"""The layout of a row, by hand."""

import dataclasses

import numpy as np
import pytest

from mmkp_jax.data.forest import COT, SFT, TRUNK, Geometry, RowSize, Tree, empty_rows, plant, tree_size
from tests.support.tiny import tiny_config
from tests.support.trees import forest_of, geometry_of, random_tree, row_size

IMAGE = 99
GEOMETRY = Geometry(image_token=IMAGE)
PATCHES = np.arange(16 * 588, dtype=np.uint8).reshape(16, 588)
TREE = Tree(
    prompt=np.array([1, IMAGE, IMAGE, IMAGE, IMAGE, 2, 3]),
    sft=np.array([10, 11]),
    cot=np.array([20, 21, 22]),
    grids=((4, 4),),
    patches=(PATCHES,),
)
SIZE = RowSize(tokens=13, patches=20, windows=2, labels=6, examples=2)


def test_a_tree_is_laid_out_trunk_then_cot_then_sft():
    row = plant([[TREE]], SIZE, GEOMETRY)
    np.testing.assert_array_equal(row.token_BT[0], [1, 99, 99, 99, 99, 2, 3, 20, 21, 3, 10, 0, 0])
    np.testing.assert_array_equal(row.branch_BT[0], [TRUNK] * 6 + [COT] * 3 + [SFT] * 2 + [0, 0])
    np.testing.assert_array_equal(row.segment_BT[0], [1] * 11 + [0, 0])
    # the picture takes positions 1 (time) and 1..2 (row, column); text goes on from 3
    np.testing.assert_array_equal(row.position_BT3[0, :, 0], [0, 1, 1, 1, 1, 3, 4, 5, 6, 4, 5, 0, 0])
    np.testing.assert_array_equal(row.position_BT3[0, 1:5, 1:], [[1, 1], [1, 2], [2, 1], [2, 2]])
    np.testing.assert_array_equal(row.merged_BT[0], [-1, 0, 1, 2, 3] + [-1] * 8)


def test_every_label_has_one_token_that_predicts_it():
    row = plant([[TREE]], SIZE, GEOMETRY)
    np.testing.assert_array_equal(row.label_BM[0], [20, 21, 22, 10, 11, 0])
    np.testing.assert_array_equal(row.weight_BM[0], [1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(row.label_slot_BM[0, :5], [6, 7, 8, 9, 10])
    np.testing.assert_array_equal(row.token_BT[0, row.label_slot_BM[0, :5]], [3, 20, 21, 3, 10])


def test_patches_lie_in_window_order_and_pictures_are_numbered_over_the_row():
    row = plant([[TREE]], SIZE, GEOMETRY)
    np.testing.assert_array_equal(row.patch_BPC[0, :16], PATCHES)  # one window: its order is the processor's
    np.testing.assert_array_equal(row.image_BP[0], [1] * 16 + [0] * 4)
    np.testing.assert_array_equal(row.window_BW[0], [16, 0])
    config = tiny_config()
    trees = [random_tree(0, config, grids=[(4, 4), (10, 18)]), random_tree(1, config, grids=[(6, 4)])]
    row = forest_of([trees], config)
    np.testing.assert_array_equal(np.bincount(row.image_BP[0]), [0, 16, 180, 24])
    assert row.window_BW[0].sum() == 220
    # the second tree's image tokens stand for the row's merged patches from (16 + 180) / 4 on
    second = row.merged_BT[0][(row.segment_BT[0] == 2) & (row.merged_BT[0] >= 0)]
    assert second.min() == 49 and sorted(second) == list(range(49, 55))


def test_an_absent_target_takes_no_slot():
    bare = Tree(TREE.prompt, TREE.sft, TREE.cot[:0], TREE.grids, TREE.patches)
    assert tree_size(bare, GEOMETRY) == RowSize(tokens=8, patches=16, windows=1, labels=2, examples=1)
    assert tree_size(TREE, GEOMETRY) == RowSize(tokens=11, patches=16, windows=1, labels=5, examples=1)


def test_rows_of_the_exact_size_are_full_and_one_slot_less_is_refused():
    config = tiny_config()
    rows = [[random_tree(0, config), random_tree(1, config, grids=[(10, 18)])]]
    size, geometry = row_size(rows, config), geometry_of(config)
    full = plant(rows, size, geometry)
    assert (full.segment_BT > 0).all() and (full.image_BP > 0).all() and (full.weight_BM > 0).all()
    for name in ("tokens", "patches", "windows", "labels", "examples"):
        one = 4 if name == "patches" else 1  # a merged patch
        short = RowSize(**{**size.__dict__, name: getattr(size, name) - one})
        with pytest.raises(ValueError, match=f"row 0 needs .* {name}"):
            plant(rows, short, geometry)


def test_a_tree_of_lists_is_planted_like_one_of_arrays():
    lists = Tree(TREE.prompt.tolist(), TREE.sft.tolist(), TREE.cot.tolist(), [[4, 4]], [PATCHES])
    assert {part.dtype for part in (lists.prompt, lists.sft, lists.cot)} == {np.dtype(np.int32)}
    assert lists.grids == ((4, 4),)
    for one, other in zip(plant([[lists]], SIZE, GEOMETRY), plant([[TREE]], SIZE, GEOMETRY), strict=True):
        np.testing.assert_array_equal(one, other)
    without = dataclasses.replace(lists, cot=[])
    assert without.cot.dtype == np.int32 and tree_size(without, GEOMETRY).labels == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [1.5, 2]}, r"prompt is float64 \[2\], not a list of token numbers"),
        ({"prompt": [[1, 2]]}, r"prompt is int64 \[1, 2\], not"),
        ({"prompt": "text"}, "prompt is <U4"),
        ({"sft": [-1]}, "sft is .* from 0 on"),
        ({"cot": [2**31]}, "cot is .* token numbers"),
        ({"grids": ((1, 4, 4),)}, r"picture 1 has the grid \(1, 4, 4\), not \(patches down, patches across\)"),
        ({"grids": ((4, 4), (2, 2))}, "patches of 1 pictures and grids of 2"),
        ({"grids": ()}, "patches of 1 pictures and grids of 0"),
        ({"grids": ((4, 6),)}, r"picture 1 is uint8 \[16, 588\], not uint8 \[24, C\] for its grid of 4 x 6"),
        ({"patches": (PATCHES.astype(np.float32),)}, r"picture 1 is float32 \[16, 588\], not uint8 \[16, C\]"),
        (
            {"grids": ((4, 4), (4, 4)), "patches": (PATCHES, PATCHES.ravel())},
            r"picture 2 is uint8 \[9408\], not uint8 \[16, C\]",
        ),
    ],
)
def test_what_is_no_tree_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TREE, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": TREE.prompt[:5]}, "row 0, tree 2: .* end with a text token"),
        ({"patches": ()}, "row 0, tree 2: there are 1 grids and no patches"),
        ({"patches": (PATCHES[:, :100],)}, "row 0, tree 2: picture 1 has 100 values a patch, not 588"),
        ({"prompt": [1, 2, 3]}, "row 0, tree 2: 0 image tokens for pictures of 4 merged patches"),
        ({"prompt": [IMAGE, IMAGE, 1, IMAGE, IMAGE, 2]}, "row 0, tree 2: text stands inside the image tokens"),
        ({"grids": ((1, 16),)}, "a grid of 1 x 16 patches is not made of 2 x 2 merged patches"),
    ],
)
def test_a_tree_whose_parts_do_not_belong_together_is_refused(fields, message):
    size = RowSize(tokens=30, patches=40, windows=4, labels=12, examples=2)
    rows = [[TREE, dataclasses.replace(TREE, **fields)]]
    with pytest.raises(ValueError, match=message):
        plant(rows, size, GEOMETRY)


def test_a_tree_without_its_patches_can_be_measured():
    assert tree_size(dataclasses.replace(TREE, patches=()), GEOMETRY) == tree_size(TREE, GEOMETRY)


def test_patch_slots_are_whole_merged_patches():
    size = dataclasses.replace(SIZE, patches=18)
    for make in (lambda: plant([[TREE]], size, GEOMETRY), lambda: empty_rows(1, size, GEOMETRY)):
        with pytest.raises(ValueError, match="18 patch slots of a row are no multiple of 4"):
            make()


def test_empty_rows_are_padding():
    rows = empty_rows(2, SIZE, GEOMETRY)
    assert not rows.segment_BT.any() and not rows.image_BP.any() and not rows.weight_BM.any()
    assert not rows.window_BW.any() and (rows.merged_BT == -1).all()
