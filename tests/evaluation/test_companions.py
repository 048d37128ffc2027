"""Repeats, diversity, novelty and reliability: worked by hand, then against a second implementation."""

import math

import numpy as np
import pytest

from mmkp_jax.evaluation.companions import (
    BINS,
    calibration_error,
    companions,
    diversity,
    mean_over_runs,
    novelty,
    reliability,
    repeats,
)
from tests.evaluation.test_metric import random_case
from tests.support.naive_metric import naive_companions
from tests.support.shared_folder import TextPost

DOG = TextPost("", ["dogs"])


def test_repeats_are_counted_in_what_was_written():
    """`dogs` and `Dog` are one keyphrase: two of six repeat; another output's keyphrases do not count."""
    outputs = ["dogs; cat; Dog;; cat", "<think>dog; dog; dog</think><answer>dog; bus</answer>"]
    assert repeats(outputs) == 2 / 6
    assert repeats(["dog; dog", "<think>dog; dog"]) == 1 / 2  # a broken output has no keyphrases
    assert repeats(["", "<think>"]) is None
    assert repeats(["1. dog\n2. dogs"]) == 0 and repeats(["1. dog\n2. dogs"], "lenient") == 1 / 2


def test_diversity_is_distinct_keyphrases_over_all():
    """`dogs` and `dog` are one, a post's own repeat counts once, empty and unwanted phrases not at all."""
    assert diversity(["dogs;cat", "dog", "bus;bus"]) == 3 / 4
    assert diversity([["dogs", "<unk>"], [], "x;"]) == 1
    assert diversity(["", "<unk>"]) is None


def test_novelty_is_the_share_outside_of_training_and_its_precision():
    """Training has `cats` as a stem: `cat` is known; of `dog`, `bus` and `sky`, which are not, `dog` is right."""
    posts = [DOG, TextPost("", ["cat"]), TextPost("", [])]
    found = novelty(posts, ["dog;cat", "bus;cat", "sky"], {"Cats", "red car"})
    assert found == {"novelty": 3 / 5, "novel_precision": 1 / 2}  # the last post has no targets to be right about
    assert novelty([DOG], ["cat"], {"cat"}) == {"novelty": 0, "novel_precision": None}
    assert novelty([DOG], [""], {"cat"}) == {"novelty": None, "novel_precision": None}


def test_reliability_puts_keyphrases_into_bins_of_confidence():
    """Confidences 0.95, 0.91 and 0.2 (the upper edge of the second bin); `dog` after `dogs` is no second prediction."""
    predictions, confidences = [["dogs", "dog"], ["cat", "<unk>"], ["bus"]], [[0.95, 0.5], [0.91, 0.3], [0.2]]
    posts = [DOG, DOG, TextPost("", ["bus"])]
    logprobs = [[math.log(each) for each in own] for own in confidences]
    bins = reliability(posts, predictions, logprobs)
    assert [each.n for each in bins] == [0, 1, 0, 0, 0, 0, 0, 0, 0, 2] and len(bins) == BINS
    assert bins[9][:3] == (0.9, 1.0, 2) and bins[9].confidence == pytest.approx(0.93) and bins[9].precision == 0.5
    assert bins[1].precision == 1 and bins[0].precision is bins[0].confidence is None
    assert calibration_error(bins) == pytest.approx((2 * 0.43 + 0.8) / 3)
    edges = reliability([DOG] * 2, [["a"], ["b"]], [[0.0], [-1e9]])
    assert edges[9].n == edges[0].n == 1  # certain, and a probability of 0
    assert calibration_error(reliability([TextPost("", [])], [["a"]], [[-1.0]])) is None
    assert calibration_error(reliability([], [], [])) is None


def test_what_was_not_measured_is_absent():
    assert companions([DOG], [[]]) == {}
    assert companions([DOG], ["dog"]) == {"diversity": 1}
    assert companions([DOG], ["dog"], {"cat"}) == {"diversity": 1, "novelty": 1, "novel_precision": 1}
    found = companions([DOG], [["dog"]], None, outputs=["dog"], tokens=[3], logprobs=[[0.0]])
    assert found == {"words": 1, "tokens": 3, "repeats": 0, "diversity": 1, "ece": 0}
    assert "tokens" not in companions([DOG], ["dog"], None, outputs=["dog"], tokens=[0])  # an endpoint did not count
    assert companions([DOG], [[]], None, outputs=[""], tokens=[0])["tokens"] == 0
    assert mean_over_runs([{"words": 1.0, "ece": 0.5}, {"words": 2.0}]) == {"words": 1.5}


@pytest.mark.parametrize("seed", range(4))
def test_a_second_implementation_agrees(seed):
    posts, lines, train, _ = random_case(seed, posts=120)
    rng = np.random.default_rng(seed)
    outputs = [line.replace(";", " ; ") for line in lines]
    predictions = [line.split(";") for line in lines]
    confidences = [np.maximum(rng.integers(0, 11, len(each)) / 10, 1e-9) for each in predictions]  # at many edges
    logprobs = [[math.log(each) for each in own] for own in confidences]
    ours = companions(posts, predictions, train, outputs=outputs, logprobs=logprobs)
    assert ours == pytest.approx(naive_companions(posts, lines, train, outputs, logprobs), abs=1e-12)
    assert all(0.01 < value < 0.99 for name, value in ours.items() if name != "words")  # the case says something
