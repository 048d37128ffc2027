"""Figures of small splits worked by hand, and those known of the real posts."""

import dataclasses
import json

import numpy as np
import pytest

from mmkp_jax.data.posts import Post, Record, read_cmkp
from mmkp_jax.data.prompts import trimmed
from mmkp_jax.data.statistics import (
    Distribution,
    Group,
    Histogram,
    SharedPosts,
    distribution,
    find_shared,
    gather_statistics,
    histogram,
    reject_reasons,
    repeats,
    train_overlap,
)
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.stemming import stem_words
from tests.support.shared_folder import CMKP, cmkp


class Records(list):
    """Records in memory."""

    fingerprint = "none"


def record(number: int, text: str, *keyphrases: str, image: bytes = b"", cot: str | None = None) -> Record:
    size = (40, 30) if image else (0, 0)
    return Record(f"p-{number}", text, image, *size, keyphrases, cot)


SPLIT = Records(
    [
        record(1, "Running dogs in the park", "dog", "run", "Cats", image=b"one", cot="since"),  # run and dog: stemmed
        record(2, "snowy days", "day snowy", image=b"two"),  # not side by side in this order
        record(3, "snowy days", "snowy day", "CATS", image=b"one"),
        record(4, " ", "cats"),
        record(5, "running dogs in the park", "dogs", cot="since"),  # another text: its case is another
        record(6, "", "cats"),
    ]
)


def test_the_figures_of_a_split():
    found = gather_statistics(SPLIT, stem_words, train={"dog", "cats"})
    assert (found.posts, found.without_text, found.without_image, found.with_cot) == (6, 2, 3, 2)
    assert found.groups == {
        "all": Group(9, 6),
        "present": Group(4, 3),  # dog, run; snowy day; dogs
        "absent": Group(5, 5),  # Cats; day snowy; CATS; cats; cats
        "seen": Group(5, 4),  # dog, Cats; CATS; cats; cats
        "unseen": Group(4, 4),  # run; day snowy; snowy day; dogs
    }
    assert found.unique == {"dog": 1, "run": 1, "cats": 4, "day snowy": 1, "snowy day": 1, "dogs": 1}
    assert train_overlap(found, {"dog", "cats"}) == 2 / 6
    assert found.width_N.tolist() == [40, 40, 40, 0, 0, 0]
    assert found.height_N.tolist() == [30, 30, 30, 0, 0, 0]


def test_without_training_posts_nothing_is_seen_or_unseen():
    groups = gather_statistics(SPLIT, stem_words).groups
    assert groups["seen"] is None and groups["unseen"] is None
    assert groups["present"] == Group(4, 3)


def test_what_posts_share_is_counted_without_what_they_lack():
    found = gather_statistics(SPLIT, stem_words)
    assert repeats(found.digest_N["text"]) == SharedPosts(1, 1, [(1, 2)])  # two without text are not the same
    assert repeats(found.digest_N["image"]) == SharedPosts(1, 1, [(0, 2)])
    assert repeats(found.digest_N["id"]) == SharedPosts(0, 0, [])
    other = gather_statistics(Records([record(6, "snowy days", "k", image=b"new"), record(8, "", "k")]), stem_words)
    assert find_shared(found.digest_N["text"], other.digest_N["text"]) == SharedPosts(2, 1, [(1, 0)])
    assert find_shared(found.digest_N["image"], other.digest_N["image"]) == SharedPosts(0, 0, [])
    assert find_shared(found.digest_N["id"], other.digest_N["id"]) == SharedPosts(1, 1, [(5, 0)])


def test_only_the_first_few_pairs_are_kept():
    same = np.full(9, 7, np.uint64)
    assert repeats(same) == SharedPosts(1, 8, [(0, 1), (0, 2), (0, 3)])
    assert find_shared(same, same[:5]) == SharedPosts(9, 5, [(0, 0), (0, 1), (0, 2)])


def test_a_text_is_above_the_limit_just_where_it_would_be_trimmed(split, recipe):
    lengths = gather_statistics(split, stem_words, recipe=recipe).text_tokens_N
    for limit in (5, 20, recipe.max_text_tokens):
        for number in range(len(split)):
            text = split[number].text
            is_cut = trimmed(text, recipe.template, max_text_tokens=limit) != text.strip()
            assert is_cut == (lengths[number] > limit)
    assert lengths.min() < 20 < lengths.max()


def test_the_spread_is_of_values_that_occur():
    assert distribution(np.arange(1, 101)) == Distribution(100, 50.5, 50, 95, 99, 100)
    assert distribution(np.array([3])) == Distribution(1, 3.0, 3, 3, 3, 3)
    assert distribution(np.array([], np.int32)) is None


@pytest.mark.parametrize(
    ("values", "bins", "width", "counts", "beyond"),
    [
        ([0, 1, 1, 3], 4, 1, [1, 2, 0, 1], 0),
        ([0, 1, 1, 4], 4, 2, [3, 0, 1], 0),
        ([0, 39], 4, 10, [1, 0, 0, 1], 0),
        ([0, 40], 4, 20, [1, 0, 1], 0),
        ([0], 4, 1, [1], 0),
        ([1] * 999 + [10_000], 4, 1, [0, 999], 1),  # one far off does not flatten the rest
        ([100] * 999 + [120], 4, 50, [0, 0, 1000], 0),  # one not so far off is shown
    ],
)
def test_the_bins_of_a_histogram(values, bins, width, counts, beyond):
    found = histogram(np.array(values), bins)
    assert (found.width, found.count_B.tolist(), found.beyond) == (width, counts, beyond)


def test_a_histogram_of_nothing_is_empty():
    assert isinstance(histogram(np.zeros(0, np.int64)), Histogram)
    assert histogram(np.zeros(0, np.int64)).count_B.sum() == 0


def reject(split: str, line: int, reason: str, image: str | None = None, post_id: str | None = None) -> str:
    post = dataclasses.asdict(Post(post_id, "text", image, ("key",))) if image else None
    row = {"split": split, "id": post_id, "file": "f.jsonl", "line": line, "reason": reason, "mend": "m", "post": post}
    return json.dumps(row) + "\n"


def test_rejects_are_counted_by_kind_of_reason(tmp_path):
    lines = [
        reject("train", 1, "there is no image 'a b.jpg'", "a b.jpg", "t-1"),
        reject("train", 2, "the line has 2 fields, not 3"),
        reject("train", 3, "the image is truncated (12 bytes): x.jpg", "x.jpg", "t-3"),
        reject("train", 4, 'there is no image "it\'s.jpg"', "it's.jpg", "t-4"),
        reject("train", 5, "the line has 4 fields, not 3"),
        reject("test", 6, "the image is truncated (1,200 bytes): y.jpg", "y.jpg", "s-6"),
        reject("train", 7, "the image is truncated (9 bytes): z.jpg", "z.jpg", "t-7"),
        reject("train", 8, "the line is not UTF-8"),
        reject("train", 9, "the image is 4,020 x 20 pixels, more than 200:1: w.jpg", "w.jpg", "t-9"),
        reject("train", 10, "'id' is 7"),
        reject("train", 11, """'id' is ["x", 7]"""),
        reject("train", 12, "the post has no 'text'"),
    ]
    (tmp_path / "rejects.jsonl").write_text("".join(lines))
    found = reject_reasons(tmp_path)
    assert {kind: each.count for kind, each in found.items()} == {
        ("train", "there is no image …"): 2,
        ("train", "the line has N fields, not N"): 2,
        ("train", "the image is truncated (N bytes)"): 2,
        ("train", "the line is not UTF-8"): 1,
        ("train", "the image is N x N pixels, more than 200:1"): 1,
        ("train", "'id' is …"): 2,
        ("train", "the post has no 'text'"): 1,
        ("test", "the image is truncated (N bytes)"): 1,
    }
    assert found["train", "the line has N fields, not N"].examples[0] == "f.jsonl:2: the line has 2 fields, not 3"
    assert found["train", "there is no image …"].examples[0] == "t-1: there is no image 'a b.jpg'"


@pytest.mark.parametrize("content", [None, "{", "[]\n", '{"split": "train"}\n'])
def test_a_list_of_rejects_that_cannot_be_read_is_reported(tmp_path, content):
    if content is not None:
        (tmp_path / "rejects.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"rejects\.jsonl"):
        reject_reasons(tmp_path)


def real(split: str) -> Records:
    cmkp(f"tw_mm_s1/{split}_src.txt")
    posts = read_cmkp(CMKP / "tw_mm_s1", split)
    return Records([Record(post.id, post.text, b"", 0, 0, post.keyphrases, None) for post in posts])


def test_the_known_figures_of_the_real_posts():
    train = set(cmkp("tw_mm_s1/train_keyphrases.txt").read_text(encoding="utf-8").split("\n")) - {""}
    test, valid = (gather_statistics(real(split), stem_words, train=train) for split in ("test", "valid"))

    def present(split):
        return round(split.groups["present"].keyphrases / split.groups["all"].keyphrases, 4)

    assert (test.posts, len(test.unique), round(train_overlap(test, train), 4)) == (5372, 2534, 0.9732)
    assert (valid.posts, len(valid.unique), round(train_overlap(valid, train), 4)) == (5370, 2544, 0.9780)
    assert (present(test), present(valid)) == (0.3745, 0.3601)
    assert round(test.groups["all"].keyphrases / test.posts, 3) == 1.325
    assert (test.groups["present"].posts, test.groups["absent"].posts) == (2320, 3441)
    assert test.groups["unseen"].posts == 74
    assert sum(keyphrase not in train for keyphrase in test.unique) == 68
    assert (repeats(test.digest_N["text"]).second, repeats(valid.digest_N["text"]).second) == (14, 20)
    assert find_shared(valid.digest_N["text"], test.digest_N["text"]).first == 23
