"""The layout of a row, by hand."""

import dataclasses

import numpy as np
import pytest

from mmkp_jax.data.forest import COT, SFT, TRUNK, RowSize, Tree, empty_rows, map_arrays, pack_rows, row_size, tree_size
from mmkp_jax.errors import InputError
from mmkp_jax.families.qwen2_5_vl.processor import Qwen2_5_VLProcessor
from tests.support.tiny import tiny_config
from tests.support.trees import forest_of, processor_of, random_tree, row_of
from tests.support.trees import row_size as smallest_row

IMAGE = 99
PROCESSOR = Qwen2_5_VLProcessor(image_token=IMAGE)
PATCHES = np.arange(16 * 588, dtype=np.uint8).reshape(16, 588)
LAYOUT = PROCESSOR.layout_of((4, 4))
TREE = Tree(
    prompt=np.array([1, IMAGE, IMAGE, IMAGE, IMAGE, 2, 3]),
    sft=np.array([10, 11]),
    cot=np.array([20, 21, 22]),
    layouts=(LAYOUT,),
    pixels=(PATCHES,),
)
SIZE = row_of(tokens=13, patches=20, windows=2, labels=6, examples=2)


def test_a_tree_is_laid_out_trunk_then_cot_then_sft():
    row = pack_rows([[TREE]], SIZE, PROCESSOR)
    np.testing.assert_array_equal(row.token_BT[0], [1, 99, 99, 99, 99, 2, 3, 20, 21, 3, 10, 0, 0])
    np.testing.assert_array_equal(row.branch_BT[0], [TRUNK] * 6 + [COT] * 3 + [SFT] * 2 + [0, 0])
    np.testing.assert_array_equal(row.segment_BT[0], [1] * 11 + [0, 0])
    # the image takes positions 1 (time) and 1..2 (row, column); text continues from 3
    np.testing.assert_array_equal(row.position_BTA[0, :, 0], [0, 1, 1, 1, 1, 3, 4, 5, 6, 4, 5, 0, 0])
    np.testing.assert_array_equal(row.position_BTA[0, 1:5, 1:], [[1, 1], [1, 2], [2, 1], [2, 2]])
    np.testing.assert_array_equal(row.images.merged_BT[0], [-1, 0, 1, 2, 3] + [-1] * 8)


def test_every_label_has_one_token_that_predicts_it():
    row = pack_rows([[TREE]], SIZE, PROCESSOR)
    np.testing.assert_array_equal(row.label_BM[0], [20, 21, 22, 10, 11, 0])
    np.testing.assert_array_equal(row.weight_BM[0], [1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(row.label_slot_BM[0, :5], [6, 7, 8, 9, 10])
    np.testing.assert_array_equal(row.token_BT[0, row.label_slot_BM[0, :5]], [3, 20, 21, 3, 10])


def test_patches_are_in_window_order_and_images_are_numbered_over_the_row():
    row = pack_rows([[TREE]], SIZE, PROCESSOR)
    np.testing.assert_array_equal(row.images.patch_BPC[0, :16], PATCHES)  # one window: its order is the processor's
    np.testing.assert_array_equal(row.images.image_BP[0], [1] * 16 + [0] * 4)
    np.testing.assert_array_equal(row.images.window_BW[0], [16, 0])
    config = tiny_config()
    trees = [random_tree(0, config, grids=[(4, 4), (10, 18)]), random_tree(1, config, grids=[(6, 4)])]
    row = forest_of([trees], config)
    np.testing.assert_array_equal(np.bincount(row.images.image_BP[0]), [0, 16, 180, 24])
    assert row.images.window_BW[0].sum() == 220
    # the second tree's image tokens stand for the row's merged patches from (16 + 180) / 4 on
    second = row.images.merged_BT[0][(row.segment_BT[0] == 2) & (row.images.merged_BT[0] >= 0)]
    assert second.min() == 49 and sorted(second) == list(range(49, 55))


def test_an_absent_target_takes_no_slot():
    bare = Tree(TREE.prompt, TREE.sft, TREE.cot[:0], TREE.layouts, TREE.pixels)
    assert tree_size(bare, PROCESSOR) == row_of(tokens=8, patches=16, windows=1, labels=2, examples=1)
    assert tree_size(TREE, PROCESSOR) == row_of(tokens=11, patches=16, windows=1, labels=5, examples=1)


def test_rows_of_the_exact_size_are_full_and_one_slot_less_is_refused():
    config = tiny_config()
    rows = [[random_tree(0, config), random_tree(1, config, grids=[(10, 18)])]]
    size, processor = smallest_row(rows, config), processor_of(config)
    full = pack_rows(rows, size, processor)
    assert (full.segment_BT > 0).all() and (full.images.image_BP > 0).all() and (full.weight_BM > 0).all()
    for name in ("tokens", "patches", "windows", "labels", "examples"):
        one = 4 if name == "patches" else 1  # a merged patch
        short = RowSize.from_slots(size.slots() | {name: size.slots()[name] - one})
        with pytest.raises(ValueError, match=f"row 0 needs .* {name}"):
            pack_rows(rows, short, processor)


def test_a_tree_of_lists_is_packed_like_one_of_arrays():
    lists = Tree(TREE.prompt.tolist(), TREE.sft.tolist(), TREE.cot.tolist(), [LAYOUT], [PATCHES])
    assert {part.dtype for part in (lists.prompt, lists.sft, lists.cot)} == {np.dtype(np.int32)}
    assert lists.layouts == (LAYOUT,)
    map_arrays(
        np.testing.assert_array_equal, pack_rows([[lists]], SIZE, PROCESSOR), pack_rows([[TREE]], SIZE, PROCESSOR)
    )
    without = dataclasses.replace(lists, cot=[])
    assert without.cot.dtype == np.int32 and tree_size(without, PROCESSOR).labels == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [1.5, 2]}, r"prompt is float64 \[2\], not a list of token numbers"),
        ({"prompt": [[1, 2]]}, r"prompt is int64 \[1, 2\], not"),
        ({"prompt": "text"}, "prompt is <U4"),
        ({"sft": [-1]}, "sft is .* from 0 on"),
        ({"cot": [2**31]}, "cot is .* token numbers"),
        ({"layouts": (LAYOUT, LAYOUT)}, "pixels of 1 images and layouts of 2"),
        ({"layouts": ()}, "pixels of 1 images and layouts of 0"),
        ({"pixels": (PATCHES.astype(np.float32),)}, r"image 1 is float32 \[16, 588\], not uint8"),
    ],
)
def test_what_is_no_tree_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TREE, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": TREE.prompt[:5]}, "row 0, tree 2: .* end with a text token"),
        ({"pixels": ()}, "row 0, tree 2: there are 1 layouts and no pixels"),
        ({"pixels": (PATCHES[:, :100],)}, r"row 0, tree 2: image 2 is uint8 \[16, 100\], not \[16, 588\] for its grid"),
        ({"pixels": (PATCHES.ravel(),)}, r"row 0, tree 2: image 2 is uint8 \[9408\], not \[16, 588\]"),
        ({"prompt": [1, 2, 3]}, "row 0, tree 2: 0 image tokens for images of 4 merged patches"),
        ({"prompt": [IMAGE, IMAGE, 1, IMAGE, IMAGE, 2]}, "row 0, tree 2: text is inside the image tokens"),
    ],
)
def test_a_tree_whose_parts_do_not_belong_together_is_refused(fields, message):
    size = row_of(tokens=30, patches=40, windows=4, labels=12, examples=2)
    rows = [[TREE, dataclasses.replace(TREE, **fields)]]
    with pytest.raises(ValueError, match=message):
        pack_rows(rows, size, PROCESSOR)


def test_a_tree_without_its_pixels_can_be_measured():
    assert tree_size(dataclasses.replace(TREE, pixels=()), PROCESSOR) == tree_size(TREE, PROCESSOR)


def test_patch_slots_are_whole_merged_patches():
    size = dataclasses.replace(SIZE, images={"patches": 18, "windows": 2})
    for make in (lambda: pack_rows([[TREE]], size, PROCESSOR), lambda: empty_rows(1, size, PROCESSOR)):
        with pytest.raises(ValueError, match="18 patch slots of a row are no multiple of 4"):
            make()


def test_empty_rows_are_padding():
    rows = empty_rows(2, SIZE, PROCESSOR)
    assert not rows.segment_BT.any() and not rows.images.image_BP.any() and not rows.weight_BM.any()
    assert not rows.images.window_BW.any() and (rows.images.merged_BT == -1).all()


def test_a_layout_is_of_whole_merged_patches():
    with pytest.raises(ValueError, match="a grid of 1 x 16 patches is not made of 2 x 2 merged patches"):
        PROCESSOR.layout_of((1, 16))


def test_a_configs_row_takes_the_familys_slots_where_it_gives_none():
    row = {"tokens": 4096, "labels": 1536, "examples": 16, "tree_tokens": 0, "images": {}}
    assert row_size(row, PROCESSOR) == row_of(4096, 11_520, 208, 1536, 16)
    given = row_size(row | {"images": {"windows": 9}}, PROCESSOR)
    assert given == row_of(4096, 11_520, 9, 1536, 16) and list(given.slots())[1:3] == ["patches", "windows"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"patch": 4}, r"config.row.images.patch: images of this model take no slots 'patch' \(did you mean 'patches'"),
        ({"patches": 6}, "6 patch slots of a row are no multiple of 4"),
        ({"windows": 0}, "rows of 11,520 patches have no window"),
    ],
)
def test_slots_that_images_cannot_use_are_refused(images, message):
    with pytest.raises(InputError, match=message):
        row_size({"tokens": 4096, "labels": 1536, "examples": 16, "tree_tokens": 0, "images": images}, PROCESSOR)


def test_a_tree_longer_than_the_rows_limit_is_refused():
    rows = [[TREE]]
    assert SIZE.longest_tree == SIZE.tokens
    limit = tree_size(TREE, PROCESSOR).tokens
    pack_rows(rows, dataclasses.replace(SIZE, tree_tokens=limit), PROCESSOR)
    with pytest.raises(ValueError, match=f"row 0 has a tree of {limit} tokens, and a tree may have {limit - 1}"):
        pack_rows(rows, dataclasses.replace(SIZE, tree_tokens=limit - 1), PROCESSOR)


def test_an_image_larger_than_attention_assumes_is_refused():
    config = tiny_config()
    rows = [[random_tree(0, config, grids=[(10, 8)])]]
    size = smallest_row(rows, config)
    pack_rows(rows, size, processor_of(config))
    small = processor_of(config, min_pixels=784, max_pixels=784)
    assert small.longest_image < 80
    with pytest.raises(
        ValueError, match=f"row 0 has an image of 80 patches, and an image may have {small.longest_image}"
    ):
        pack_rows(rows, size, small)
