"""CMKP's rules one by one, on cases worked by hand; then all at once against a second implementation."""

import math

import numpy as np
import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.metric import GROUPS, METRICS, corpus_scores, per_post, post_values, score, score_by_kind
from tests.support.naive_metric import naive_scores
from tests.support.shared_folder import TextPost

TRAIN = ("dogs", "red car")


def one(prediction, keyphrases, text="", train=TRAIN):
    return score([TextPost(text, keyphrases)], [prediction], train)


def test_words_are_lower_cased_and_stemmed():
    """Rule 1."""
    assert one("Red Cars", ["red car"])["all"]["f1@1"] == 1
    assert one("red  car", ["red car"])["all"]["f1@1"] == 0  # two spaces: an empty word between


@pytest.mark.parametrize("prediction", ["a;b", " A ; b", ["a", "b"], ["a;b"]])
def test_a_line_and_a_list_are_the_same(prediction):
    """Rule 1."""
    assert one(prediction, ["b"])["all"] == one("a;b", ["b"])["all"]


def test_a_repeat_after_stemming_counts_once():
    """Rule 2: `dog` repeats `dogs`, so `cat` is second of two."""
    scores = one("dogs;dog;cat", ["dog", "cat", "dogs"])["all"]
    assert scores["f1@M"] == 1
    assert scores["f1@3"] == 1 and scores["ndcg@5"] == 1


@pytest.mark.parametrize("word", ["<unk>", ",", "."])
def test_phrases_with_unwanted_words_are_dropped(word):
    """Rule 2: they take no rank; a full stop inside a word is not a word."""
    assert one(f"red {word};{word};dog", ["dog"])["all"]["p@1"] == 1
    assert one("e.g;dog", ["dog"])["all"]["p@1"] == 0
    assert one("dog", ["dog", f"red {word}"])["all"]["r@1"] == 0.5  # targets keep theirs


@pytest.mark.parametrize("prediction", ["", " ", []])
def test_an_empty_line_is_one_empty_phrase(prediction):
    """Rule 3: it counts as a prediction, never matches, and is absent and unseen."""
    counts = per_post([TextPost("dog", ["dog", "red"])], [prediction], TRAIN)
    for group, predicted in {"all": 1, "present": 0, "absent": None, "seen": None, "unseen": 1}.items():
        assert predicted is None or counts[group].predictions_NK[0].tolist() == [predicted] * 4
    assert one(prediction, ["dog"])["all"]["f1@M"] == 0


def test_an_empty_phrase_in_a_line_takes_a_rank():
    """Rule 3."""
    assert one("dog;;", ["dog"])["all"]["f1@M"] == pytest.approx(2 * 0.5 / 1.5)
    assert one(";dog", ["dog"])["all"]["p@1"] == 0
    assert one("", ["", "dog"])["all"] == one("", ["dog"])["all"]


def test_k_beyond_the_list_takes_the_whole_list():
    """Rule 4: n = min(k, predictions left)."""
    counts = per_post([TextPost("", ["dog", "cat"])], ["dog;x"])["all"]
    assert counts.predictions_NK.tolist() == [[1, 2, 2, 2]]
    assert counts.hits_NK.tolist() == [[1, 1, 1, 1]]
    scores = one("dog;x", ["dog", "cat"])["all"]
    assert (scores["p@1"], scores["r@1"]) == (1, 0.5)
    assert scores["f1@3"] == scores["f1@5"] == scores["f1@M"] == 0.5


def test_a_post_without_predictions_left_counts():
    """Rule 4."""
    posts = [TextPost("", ["dog"]), TextPost("", ["cat"])]
    assert score(posts, ["<unk>", "cat"])["all"] == {"n": 2, **dict.fromkeys(METRICS, 0.5)}


def test_f1_is_of_the_means():
    """Rule 5: mean P = (1 + 0.5)/2, mean R = (0.5 + 1)/2; the mean of the posts' F1 would be 2/3."""
    posts = [TextPost("", ["dog", "cat"]), TextPost("", ["bus"])]
    assert score(posts, ["dog", "bus;x"])["all"]["f1@M"] == 0.75


def test_map_and_ndcg():
    """Rule 6: hits at ranks 2 and 4 of three targets; a hit at rank 6 is in the ideal order alone."""
    scores = one("x;a;y;b;z;c", ["a", "b", "c"])["all"]
    assert scores["map@5"] == pytest.approx((1 / 2 + 2 / 4) / 3, abs=1e-15)
    dcg, ideal = 1 / math.log2(3) + 1 / math.log2(5), 1 + 1 / math.log2(3) + 1 / 2
    assert scores["ndcg@5"] == pytest.approx(dcg / ideal, abs=1e-15)
    unfound = one("x;a;y;b", ["a", "b", "c"])["all"]  # the ideal order knows found targets only
    assert unfound["ndcg@5"] == pytest.approx(dcg / (1 + 1 / math.log2(3)), abs=1e-15)


def test_f1_at_o_takes_as_many_predictions_as_the_post_has_targets():
    """Rule 9: one of two for the first post, of three predictions; one of one for the second, not the second hit."""
    posts = [TextPost("", ["dog", "cat"]), TextPost("", ["bus"])]
    found = score(posts, ["x;cat;dog", "bus;x"])["all"]
    assert found["f1@O"] == 0.75 and found["f1@M"] == pytest.approx(2 * (7 / 12) / (7 / 12 + 1))
    few = one("dog", ["dog", "cat", "bus", "sky"])["all"]
    assert few["f1@O"] == few["f1@M"] == pytest.approx(2 * 0.25 / 1.25)  # P of one prediction, R of four targets
    absent = one("sky;dog;bus", ["dog", "bus", "cat"], text="dog")["absent"]  # two absent targets, so `sky;bus`
    assert absent["f1@O"] == 0.5


def test_hit_rate_counts_posts_with_a_hit_among_the_first_k():
    """Rule 10: first hits at ranks 1, 2, 4 and none; more hits in a post count no more."""
    posts = [TextPost("", ["dog", "cat"])] * 4
    found = score(posts, ["dog;cat", "x;cat;dog", "x;y;z;dog", ""])["all"]
    assert [found[f"hit@{k}"] for k in (1, 3, 5)] == [0.25, 0.5, 0.75]
    assert found["hit@1"] == found["p@1"]


def test_a_group_filters_targets_and_predictions_before_the_top_k():
    """Rule 7: `blue sky` is the first absent prediction, though third in the line."""
    scores = one("dogs;car;blue sky", ["dog", "blue sky"], text="A dog on a red car")
    assert scores["all"]["p@1"] == 1 and scores["all"]["f1@M"] == pytest.approx(0.8)
    assert scores["present"]["p@1"] == 1 and scores["present"]["f1@M"] == pytest.approx(2 / 3)
    assert scores["absent"]["p@1"] == 1 and scores["absent"]["f1@M"] == 1


@pytest.mark.parametrize(
    "text, keyphrase, present",
    [
        ("the red cars stop", "red car", True),
        ("red double car", "red car", False),  # not contiguous
        ("car red", "red car", False),
        ("infrared car", "red car", False),  # whole words only
        ("RED\tcar", "red car", True),
        ("", "red car", False),
    ],
)
def test_present_is_a_contiguous_run_of_stems(text, keyphrase, present):
    """Rule 7."""
    scores = one("x", [keyphrase], text=text)
    assert (scores["present"] is not None, scores["absent"] is not None) == (present, not present)


def test_seen_goes_by_the_raw_phrase():
    """Rule 7: `dogs` is a training keyphrase, `dog` is none; across the groups there is no match."""
    seen = one("Dogs", ["DOGS"])
    assert seen["seen"]["f1@1"] == 1 and seen["unseen"] is None
    unseen = one("dogs", ["dog"])
    assert unseen["all"]["f1@1"] == 1
    assert unseen["seen"] is None and unseen["unseen"]["f1@1"] == 0


def test_a_post_is_unseen_when_any_keyphrase_is():
    """Rule 7: it counts in both groups, each with its own phrases."""
    scores = one("dogs;cat", ["dogs", "cat"])
    assert scores["seen"]["n"] == scores["unseen"]["n"] == 1
    assert scores["seen"]["f1@M"] == scores["unseen"]["f1@M"] == 1


def test_a_group_without_a_target_is_none():
    posts = [TextPost("a dog", ["dog"]), TextPost("", [])]
    scores = score(posts, ["dog", "dog"])
    assert scores["all"]["n"] == scores["present"]["n"] == 1  # a post without targets is in no group
    assert scores["absent"] is scores["seen"] is scores["unseen"] is None
    assert set(score([], []).values()) == {None}


def test_kinds_filter_targets_and_predictions_as_groups_do():
    """Rule 7, for kinds of the caller's: `cat` is the first prediction of its kind; `bus` is of none."""
    posts = [TextPost("", ["Dog", "cat", "bus"]), TextPost("", ["dog"])]
    scores = score_by_kind(posts, ["bus;dog;x;cat", ""], {"dog": "text", "cat": "image", "sky": "both"})
    assert scores["text"]["n"] == 2 and scores["text"]["p@1"] == scores["text"]["r@1"] == 0.5
    assert scores["image"] == {"n": 1, **dict.fromkeys(METRICS, 1)}
    assert list(scores) == ["text", "image", "both"] and scores["both"] is None
    assert score_by_kind(posts, ["", ""], {}) == {}


def test_kinds_of_all_keyphrases_seen_or_unseen_are_those_groups():
    posts, lines, train, _ = random_case(11)
    phrases = {
        each.strip().lower()
        for post, line in zip(posts, lines, strict=True)
        for each in (*post.keyphrases, *line.split(";"))
    }
    kinds = {phrase: "seen" if phrase in train else "unseen" for phrase in phrases}
    groups = score(posts, lines, train)
    assert score_by_kind(posts, lines, kinds) == {kind: groups[kind] for kind in kinds.values()}


def test_ocr_words_count_as_text():
    """Rule 8."""
    post = TextPost("a red", ["red car"])
    assert score([post], ["x"])["present"] is None
    assert score([post], ["x"], ocr=["cars stop here"])["present"]["n"] == 1


@pytest.mark.parametrize("arguments", [(["a"],), (["a", "b"], None, ["x"])])
def test_there_must_be_one_line_a_post(arguments):
    with pytest.raises(InputError, match="1 entries for 2 posts"):
        score([TextPost("", ["a"])] * 2, *arguments)


def random_case(seed, posts=300):
    """Posts and lines full of collisions after stemming, repeats, empty phrases and unwanted words."""
    rng = np.random.default_rng(seed)
    words = ["dog", "dogs", "Run", "running", "cat", "red", "bus", "buses", "happy", "happily", "sky", "", "<unk>", ","]
    chance = np.array([4] * 11 + [1] * 3) / 47

    def phrases(most, words=words, chance=chance):
        return [
            " ".join(rng.choice(words, rng.integers(1, 4), p=chance))
            for _ in range(rng.integers(0, most, endpoint=True))
        ]

    made = [TextPost("  ".join(phrases(12)), phrases(5)) for _ in range(posts)]
    lines = [";".join(phrases(9)) if rng.random() < 0.9 else "" for _ in made]
    lines = [
        ";".join([*post.keyphrases[::-1], line]) if rng.random() < 0.3 else line
        for post, line in zip(made, lines, strict=True)
    ]
    train = {phrase.strip().lower() for post in made[: posts // 10] for phrase in post.keyphrases}
    return made, lines, train, [" ".join(phrases(2)) for _ in made]


@pytest.mark.parametrize("seed", range(5))
def test_a_second_implementation_agrees(seed):
    posts, lines, train, ocr = random_case(seed)
    for words in (None, ocr):
        ours, theirs = score(posts, lines, train, words), naive_scores(posts, lines, train, words)
        for group in GROUPS:
            assert ours[group] == pytest.approx(theirs[group], abs=1e-12), group
            assert 0.02 < ours[group]["f1@M"] < 0.98  # the case says something


def test_resampled_scores_are_the_scores_of_the_resample():
    """What a paired bootstrap relies on."""
    posts, lines, train, _ = random_case(7, posts=60)
    kept = np.flatnonzero(per_post(posts, lines, train)["absent"].targets_N)
    value_NV = post_values(per_post(posts, lines, train)["absent"])
    sample_RN = np.random.default_rng(0).integers(0, len(kept), (3, len(kept)))
    resampled = corpus_scores(value_NV[sample_RN].mean(axis=1))
    for row, sample in enumerate(sample_RN):
        numbers = kept[sample]
        wanted = score([posts[n] for n in numbers], [lines[n] for n in numbers], train)["absent"]
        for metric in METRICS:
            assert resampled[metric][row] == pytest.approx(wanted[metric], abs=1e-12)
