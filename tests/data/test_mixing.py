"""Datasets mixed by weight: how often each post comes, the same plan wherever it is made, and one line for mistakes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from mmkp_jax.data.mixing import JoinedRecords, posts_of_epoch
from mmkp_jax.data.pipeline import batches as planned_batches
from mmkp_jax.data.plan import plan_epoch
from mmkp_jax.data.posts import Post
from mmkp_jax.data.records import write_dataset
from mmkp_jax.data.size_index import measure_posts, select_posts, sizes_of
from mmkp_jax.errors import InputError
from mmkp_jax.training import batches
from mmkp_jax.training.batches import Dataset, datasets_of, plan_posts
from tests.support.posts_on_disk import SIZE, write_posts

COUNTS = (30, 11)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("mixed")
    for number, count in enumerate(COUNTS):
        write_posts(root / str(number), count, seed=number)
    return [root / str(number) / "out" for number in range(len(COUNTS))]


def config_of(path: str, **changes) -> ConfigDict:
    fields = {
        "strategy": "dyncot",
        "pack_for": "both",
        "seed": 3,
        "num_epochs": 2,
        "total_steps": 0,
        "posts_per_step": 0,
    }
    fields |= {"global_batch_size": 4, "row": dataclasses.asdict(SIZE), "data": {"path": path, "workers": 0}}
    return ConfigDict(fields | changes)


def counted(plan, total: int) -> list[int]:
    return np.bincount(plan.post_N, minlength=total).tolist()


@pytest.mark.parametrize("weight", [0.3, 0.5, 1, 1.4, 2, 2.5])
def test_each_post_comes_as_often_as_its_weight_says(weight):
    posts = np.arange(5, 25)
    epochs = [posts_of_epoch(posts, weight, seed=0, epoch=epoch) for epoch in range(10)]
    for epoch in epochs:
        assert len(epoch) == round(weight * len(posts))
        counts = np.bincount(epoch, minlength=25)[5:]
        assert set(counts.tolist()) <= {int(weight), -int(-weight // 1)}
    assert np.bincount(np.concatenate(epochs)).tolist() == [0] * 5 + [round(10 * weight)] * 20


def test_two_halves_differ_by_seed_and_are_all():
    posts = np.arange(41)
    first, second = (posts_of_epoch(posts, 0.5, seed=0, epoch=epoch) for epoch in (0, 1))
    assert sorted([*first, *second]) == posts.tolist()
    assert first.tolist() == posts_of_epoch(posts, 0.5, seed=0, epoch=0).tolist()
    assert first.tolist() != posts_of_epoch(posts, 0.5, seed=1, epoch=0).tolist()


def test_one_dataset_is_planned_as_it_always_was(folders, split, recipe):
    ours = plan_posts(config_of(str(folders[0])), recipe)
    lengths = measure_posts(ours.feed.records, recipe)
    posts, _ = select_posts(lengths, SIZE, ours.feed.branches)
    for epoch, plan in enumerate(ours.plans):
        sizes = sizes_of(lengths, ours.feed.branches)
        expected = plan_epoch(sizes, SIZE, seed=3, epoch=epoch, batch_rows=4, posts=posts)
        assert list(plan) == list(expected)


def test_weights_are_planned_and_loaded(folders, recipe):
    """Weight 2: each post twice an epoch. Weight 0.5: each once in two epochs."""
    training = plan_posts(config_of(f"{folders[0]}:0.5, {folders[1]}:2"), recipe)
    assert training.steps == sum(map(len, training.plans)) and len(training.plans) == 2
    each = [counted(plan, sum(COUNTS)) for plan in training.plans]
    assert each[0][30:] == each[1][30:] == [2] * 11
    assert [a + b for a, b in zip(each[0][:30], each[1][:30], strict=True)] == [1] * 30
    again = plan_posts(config_of(f"{folders[0]}:0.5,{folders[1]}:2"), recipe)
    assert [list(plan) for plan in again.plans] == [list(plan) for plan in training.plans]
    posts = sum(
        int(forest.segment_BT.max(axis=1).sum()) for _, forest in planned_batches(training.feed, training.plans)
    )
    assert posts == sum(map(sum, each)) == 30 + 2 * 2 * 11


def test_steps_end_a_mixture_as_they_end_one_dataset(folders, recipe):
    training = plan_posts(config_of(f"{folders[0]}:0.1,{folders[1]}", num_epochs=0, total_steps=9), recipe)
    assert training.steps == 9
    assert sum(map(len, training.plans[:-1])) < 9 <= sum(map(len, training.plans))


def test_given_steps_win_over_epochs(folders, recipe):
    short = plan_posts(config_of(str(folders[0]), num_epochs=4, total_steps=1), recipe)
    assert short.steps == 1 and len(short.plans) == 1
    assert len(short.posts) == sum(len(row) for batch in list(short.plans[0])[:1] for row in batch) < COUNTS[0]
    with pytest.raises(InputError, match="num_epochs is 0 and total_steps is 0"):
        plan_posts(config_of(str(folders[0]), num_epochs=0), recipe)


def test_posts_without_a_chain_of_thought_are_said_before_training(folders, recipe, tmp_path):
    some = plan_posts(config_of(str(folders[0])), recipe)
    assert "WARNING: few posts have a chain of thought: 10 of 30 training posts (33.3%)" in batches.training_summary(
        some
    )
    write_dataset(tmp_path / "out", {"train": [Post(f"{n}", f"text {n}", None, ("k",)) for n in range(6)]}, tmp_path)
    none = config_of(str(tmp_path / "out"))
    assert "so Dynamic CoT trains as SFT does" in batches.training_summary(plan_posts(none, recipe))
    none.strategy = "cot"  # on rows of both targets, where its loss would be 0
    with pytest.raises(InputError, match="none of 6 training posts has a chain of thought, so nothing is trained"):
        plan_posts(none, recipe)


def test_records_are_numbered_through(split, folders):
    other = batches.open_split(folders[1], "train")
    joined = JoinedRecords([split, other])
    assert len(joined) == len(split) + len(other)
    expected = [part[number] for part in (split, other) for number in range(len(part))]
    assert [joined[number] for number in range(len(joined))] == expected
    assert len({joined.fingerprint, JoinedRecords([other, split]).fingerprint, JoinedRecords([split]).fingerprint}) == 3


def test_posts_left_out_of_a_mixture_name_their_dataset(folders, recipe):
    mixed = plan_posts(config_of(",".join(map(str, folders)), strategy="cot", pack_for="own"), recipe)
    assert {each.id.rsplit(": ")[0] for each in mixed.left_out} == {str(folder) for folder in folders}
    records = mixed.feed.records
    assert all(each.id.endswith(f": {records[each.number].id}") for each in mixed.left_out)
    assert len(mixed.left_out) + len(mixed.plans[0].post_N) == sum(COUNTS)


def test_test_posts_that_are_trained_on_are_counted(recipe, tmp_path):
    train = [Post(str(i), f"text {i}", None, ("k",)) for i in range(6)]
    test = [Post(f"t-{i}", text, None, ("k",)) for i, text in enumerate([" text 0", "new", ""])]
    for name, splits in {"a": {"train": train[1:], "test": test}, "b": {"train": [*train, test[2]]}}.items():
        write_dataset(tmp_path / name, splits, tmp_path)
    alone = plan_posts(config_of(str(tmp_path / "a")), recipe)
    mixed = plan_posts(config_of(f"{tmp_path / 'a'},{tmp_path / 'b'}"), recipe)
    assert (alone.known_tests, mixed.known_tests) == (0, 1)
    assert "test posts" not in batches.training_summary(alone)
    assert "; test posts that have the text of a training post: 1\n" in batches.training_summary(mixed)


def test_a_path_without_weight_counts_once(folders):
    one, other = map(str, folders)
    assert datasets_of(config_of(one)) == (Dataset(one, 1),)
    assert datasets_of(config_of(f"{one}:0.5,{other}")) == (Dataset(one, 0.5), Dataset(other, 1))


def test_a_folder_may_have_a_colon_in_its_name(tmp_path):
    folder = tmp_path / "of:2026"
    folder.mkdir()
    assert datasets_of(config_of(str(folder))) == (Dataset(str(folder), 1),)
    assert datasets_of(config_of(f"{folder}:3")) == (Dataset(str(folder), 3),)


@pytest.mark.parametrize(
    ("path", "reported"),
    [
        ("{0}:0", "the weight is 0; give one above 0"),
        ("{0}:-1,{1}", "the weight is -1;"),
        ("{0}:nan", "the weight is nan;"),
        ("{0}:inf", "the weight is inf;"),
        ("{0}:much", "the weight 'much' is not a number"),
        ("{0},{0}/../out:2", "is named twice"),
        ("{0},{0}/none", "there is no folder '.*none'"),
        ("{0},", "there is no folder ''"),
        ("", "there is no folder ''"),
        ("{1}:0.001", "11 posts are less than one an epoch"),
    ],
)
def test_what_cannot_be_mixed_is_reported_in_one_line(folders, recipe, path, reported):
    with pytest.raises(InputError, match=reported) as error:
        plan_posts(config_of(path.format(*folders)), recipe)
    assert len(str(error.value).splitlines()) == 1
