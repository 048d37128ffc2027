"""MMKP-V2's resampled split: small cases worked by hand, and what holds for any posts and any seed."""

import random

import pytest

from mmkp_jax.data.posts import Post, read_cmkp
from mmkp_jax.data.resample import overlap, resample
from mmkp_jax.errors import InputError
from tests.support.shared_folder import CMKP, cmkp


def posts(split: str, *keyphrases: str) -> list[Post]:
    """One post for each `kp;kp`."""
    return [Post(f"{split}-{n}", f"text {n}", None, tuple(each.split(";"))) for n, each in enumerate(keyphrases, 1)]


def ids(rows: list[Post]) -> list[str]:
    return [row.id for row in rows]


def random_posts(seed: int) -> tuple[list[Post], list[Post]]:
    """80 training and 40 test posts, with keyphrases that they share and some that they do not."""
    rng = random.Random(seed)

    def split(name: str, count: int, first: int, last: int) -> list[Post]:
        lines = (";".join(f"k{rng.randint(first, last)}" for _ in range(rng.randint(1, 3))) for _ in range(count))
        return posts(name, *lines)

    return split("train", 80, 0, 40), split("test", 40, 6, 50)


def test_a_training_post_with_a_keyphrase_that_test_lacks_is_moved_behind_the_test_posts():
    train, test = posts("train", "a", "a;x", "b", "y"), posts("test", "a", "b;c")
    new_train, new_test, provenance = resample(train, test, 1.0, 0)
    assert ids(new_train) == ["train-1", "train-3"]
    assert ids(new_test) == ["test-1", "test-2", "train-2", "train-4"]
    assert provenance.test == ["test", "test", "train", "train"]
    assert not provenance.dropped


def test_all_posts_with_a_shared_keyphrase_are_dropped_until_few_are_shared():
    train, test = posts("train", "a", "b", "a;x"), posts("test", "a", "b", "b;c", "d")
    order = ["a", "b"]
    random.Random(3).shuffle(order)
    new_train, _, provenance = resample(train, test, 0.4, 3)  # of a, b, c, d, x two are shared: enough
    assert ids(new_train) == ["train-1", "train-2"]
    assert not provenance.dropped
    _, new_test, provenance = resample(train, test, 0.39, 3)
    gone = {"a": ["test-1", "train-3"], "b": ["test-2", "test-3"]}[order[0]]
    assert [(drop.post.id, drop.keyphrase) for drop in provenance.dropped] == [(each, order[0]) for each in gone]
    assert [drop.origin for drop in provenance.dropped] == [each.split("-")[0] for each in gone]
    assert ids(new_test) == [each for each in ["test-1", "test-2", "test-3", "test-4", "train-3"] if each not in gone]


def test_case_does_not_part_keyphrases():
    new_train, new_test, provenance = resample(posts("train", "A"), posts("test", "a", "z"), 0.0, 0)
    assert ids(new_train) == ["train-1"]
    assert ids(new_test) == ["test-2"]
    assert provenance.dropped[0].keyphrase == "a"


def test_a_keyphrase_given_twice_counts_once():
    _, new_test, _ = resample(posts("train", "a"), posts("test", "a;a", "z", "y"), 0.0, 0)
    assert ids(new_test) == ["test-2", "test-3"]


@pytest.mark.parametrize("target", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_what_holds_for_any_posts(target, seed):
    train, test = random_posts(seed)
    new_train, new_test, provenance = resample(train, test, target, seed)
    assert resample(train, test, target, seed) == (new_train, new_test, provenance)
    assert overlap(new_train, new_test) <= target

    dropped = [drop.post for drop in provenance.dropped]
    assert sorted(map(repr, train + test)) == sorted(map(repr, new_train + new_test + dropped))  # nothing is changed
    assert new_train == [post for post in train if post in new_train]
    assert new_test == [post for post in test + train if post in new_test]
    assert provenance.test == [post.id.split("-")[0] for post in new_test]

    known = {each for post in test for each in post.keyphrases}
    stay = {each for post in new_train for each in post.keyphrases}
    assert stay <= known
    moved = [post for post in [*new_test, *dropped] if post.id.startswith("train")]
    assert moved and all(set(post.keyphrases) - stay for post in moved)
    assert all(drop.keyphrase in stay and drop.keyphrase in drop.post.keyphrases for drop in provenance.dropped)
    if target == 0:
        assert not any(stay & set(post.keyphrases) for post in new_test)
    if target == 1:
        assert not dropped


def test_dropping_stops_once_the_target_is_met():
    train, test = random_posts(0)
    _, new_test, provenance = resample(train, test, 0.4, 0)
    last = provenance.dropped[-1].keyphrase
    back = [drop.post for drop in provenance.dropped if drop.keyphrase == last]
    new_train, *_ = resample(train, test, 1.0, 0)
    assert overlap(new_train, new_test) <= 0.4 < overlap(new_train, new_test + back)


def test_another_seed_drops_others():
    train, test = random_posts(0)
    results = [resample(train, test, 0.3, seed) for seed in range(4)]
    assert all(new_train == results[0][0] for new_train, *_ in results)
    assert len({tuple(ids(new_test)) for _, new_test, _ in results}) > 1


def test_a_number_of_posts_ends_it_too():
    train, test = random_posts(0)
    *_, everything = resample(train, test, 0.0, 0)
    _, new_test, provenance = resample(train, test, 0.0, 0, target_posts=60)
    last = provenance.dropped[-1].keyphrase
    assert len(new_test) <= 60 < len(new_test) + sum(drop.keyphrase == last for drop in provenance.dropped)
    assert provenance.dropped == everything.dropped[: len(provenance.dropped)]


@pytest.mark.parametrize(
    ("train", "test", "target", "message"),
    [
        ("a", "a", -0.1, "target_overlap: it is -0.1"),
        ("a", "a", 45.28, "target_overlap: it is 45.28"),
        ("a", "a", float("nan"), "target_overlap: it is nan"),
        ("a", "a", 0.0, "none would be left in 'test'"),
        ("x", "a", 0.5, "none would be left in 'train'"),
        ("x", "a", 1.0, "none would be left in 'train'"),
    ],
)
def test_what_cannot_be_resampled_is_reported_in_one_line(train, test, target, message):
    with pytest.raises(InputError, match=message):
        resample(posts("train", train), posts("test", test), target, 0)


def test_the_known_figures_with_the_real_valid_posts_as_training_posts():
    cmkp("tw_mm_s1/valid_src.txt")
    train, test = (list(read_cmkp(CMKP / "tw_mm_s1", split)) for split in ("valid", "test"))
    new_train, new_test, provenance = resample(train, test, 0.4528, 0)
    assert (len(train) - len(new_train), len(new_train)) == (1087, 4283)
    unique = [{each for post in rows for each in post.keyphrases} for rows in (new_train, new_test)]
    assert (len(unique[0]), len(unique[1]), len(unique[0] & unique[1])) == (1687, 2770, 1254)
    assert len(new_test) == len(provenance.test) == 5122
    assert round(overlap(new_train, new_test), 4) == 0.4527
    assert len(new_test) + len(provenance.dropped) == len(test) + 1087
