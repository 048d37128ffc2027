"""The index gives each post's size without its image, and is computed once for what it depends on."""

import dataclasses

import numpy as np
import pytest

from mmkp_jax.data import size_index as module
from mmkp_jax.data.examples import BOTH, tree_of
from mmkp_jax.data.forest import tree_size
from mmkp_jax.data.posts import Post
from mmkp_jax.data.records import open_split, write_dataset
from mmkp_jax.data.size_index import Lengths, index, measure_posts, select_posts, sizes_of
from tests.data.test_images import random_image, saved
from tests.support.posts_on_disk import SIZE


@pytest.mark.parametrize("branches", [BOTH, ("sft",), ("cot",)])
def test_the_index_gives_the_size_of_each_tree(split, recipe, branches):
    sizes = sizes_of(measure_posts(split, recipe), branches)
    for number in range(len(split)):
        expected = tree_size(tree_of(split[number], recipe, branches), recipe.processor)
        assert tuple(sizes[number]) == tuple(expected.slots().values())


def test_the_index_never_decodes_an_image(split, recipe, monkeypatch):
    monkeypatch.setattr("mmkp_jax.data.images.decode", lambda *_, **__: pytest.fail("decoded"))
    assert len(measure_posts(split, recipe).trunk_N) == len(split)


def test_the_index_is_cached_for_what_it_depends_on(split, recipe, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(
        module, "measure_posts", lambda *given, workers: measured.append(given) or measure_posts(*given)
    )
    first = index(split, recipe, tmp_path / "cache")
    again = index(split, recipe, tmp_path / "cache")
    assert len(measured) == 1
    for ours, kept in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, kept)
    others = [
        {"processor": dataclasses.replace(recipe.processor, max_pixels=28 * 28 * 8)},
        {"processor": dataclasses.replace(recipe.processor, min_pixels=28 * 28)},
        {"max_text_tokens": 5},
        {"zero_shot": True},
        {"processor": dataclasses.replace(recipe.processor, window_side=3)},
        {"template": dataclasses.replace(recipe.template, fingerprint="another tokenizer or chat template")},
    ]
    for change in others:
        index(split, dataclasses.replace(recipe, **change), tmp_path / "cache")
    assert len(measured) == 1 + len(others)


def test_the_index_of_other_posts_is_not_taken(recipe, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name, side in (("a", 60), ("b", 120)):
        (images / name).write_bytes(saved(random_image(side, side)))
    post = Post("1", "text", "a", ("k",), "since")
    changes = [{}, {"text": "a longer text"}, {"image": "b"}, {"keyphrases": ("k", "l")}, {"cot": None}, {"id": "2"}]
    kept = []
    for number, change in enumerate(changes):
        out = tmp_path / str(number)
        write_dataset(out, {"train": [dataclasses.replace(post, **change)]}, images)
        records = open_split(out, "train")
        lengths = index(records, recipe, tmp_path / "cache")
        assert [array.tolist() for array in lengths] == [array.tolist() for array in measure_posts(records, recipe)]
        kept.append(len(list((tmp_path / "cache").iterdir())))
    assert kept == [1, 2, 3, 4, 5, 6]


def test_workers_measure_the_same(split, recipe, monkeypatch):
    monkeypatch.setattr(module, "FEW", 10)
    for ours, alone in zip(measure_posts(split, recipe, workers=2), measure_posts(split, recipe), strict=True):
        np.testing.assert_array_equal(ours, alone)


def test_a_damaged_index_is_measured_anew(split, recipe, tmp_path):
    first = index(split, recipe, tmp_path)
    (file,) = tmp_path.glob("*.npz")
    whole = file.read_bytes()
    flipped = [
        whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :] for at in range(0, len(whole), len(whole) // 60)
    ]
    for content in (b"", b"junk", whole[:500], *flipped):
        file.write_bytes(content)
        for ours, kept in zip(first, index(split, recipe, tmp_path), strict=True):
            np.testing.assert_array_equal(ours, kept)


@pytest.mark.parametrize(
    "change",
    [
        {"sft_N": np.zeros(30)},
        {"id_N": np.arange(30)},
        {"cot_N": np.zeros((30, 2))},
        {"slot_NX": np.zeros((30, 3), int)},
    ],
)
def test_an_index_of_other_arrays_is_measured_anew(split, recipe, tmp_path, change):
    first = index(split, recipe, tmp_path)
    (file,) = tmp_path.glob("*.npz")
    np.savez(file, **first._asdict() | change)
    for ours, kept in zip(first, index(split, recipe, tmp_path), strict=True):
        np.testing.assert_array_equal(ours, kept)


def test_where_the_index_cannot_be_stored_a_warning_says_so(split, recipe, tmp_path, caplog):
    (tmp_path / "index").write_text("a file, not a folder")
    lengths = index(split, recipe, tmp_path / "index")
    for ours, alone in zip(lengths, measure_posts(split, recipe), strict=True):
        np.testing.assert_array_equal(ours, alone)
    (reported,) = caplog.messages
    assert reported.startswith(f"{tmp_path / 'index'}: the index of lengths cannot be stored there (")


def test_posts_that_fit_no_row_are_reported_with_their_reason():
    ids = np.asarray(["a", "b", "c"])
    size_4N = np.asarray([[50, 50, 900], [9, 9, 9], [20, 0, 20], [16, 16, 75]], np.int32)
    slot_NX = np.asarray([[64, 4], [64, 4], [300, 4]], np.int32)
    lengths = Lengths(*size_4N, slot_NX, np.zeros(3, np.uint64), ids)
    numbers, left_out = select_posts(lengths, SIZE, BOTH)
    assert numbers.tolist() == [0, 1]
    assert [(post.number, post.id) for post in left_out] == [(2, "c")]
    assert left_out[0].reason == "it is longer than a row: 929 tokens of 700, 300 patches of 260"
    _, left_out = select_posts(lengths, dataclasses.replace(SIZE, tree_tokens=600), BOTH)
    assert "longer than a row: 929 tokens of 600 (row.tree_tokens), 300 patches" in left_out[0].reason
    numbers, left_out = select_posts(lengths, SIZE, ("cot",))
    assert numbers.tolist() == [0]
    assert left_out[0].reason == "it has no chain of thought"
