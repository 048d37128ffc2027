"""Baselines predict what they say, and the same each time."""

from mmkp_jax.evaluation import baselines
from mmkp_jax.evaluation.baselines import most_frequent, nearest_neighbour
from tests.support.shared_folder import TextPost

TRAIN = [
    TextPost("a dog in the park", ("dogs",)),
    TextPost("a red bus in the rain", ("buses", "rain")),
    TextPost("a dog in the park", ("again",)),
    TextPost("", ("nothing",)),
]


def test_most_frequent_counts_lower_cased_and_keeps_order_among_equals():
    assert most_frequent([["Dog", "cat"], ["dog ", "bus"], ["sky"]], 3) == ["dog", "cat", "bus"]
    assert most_frequent([["dog"]], 5) == ["dog"]
    assert most_frequent([], 5) == []


def test_the_keyphrases_of_the_nearest_training_post_are_predicted():
    texts = ["RAIN on the bus", "a dog in the park", "quite other words", ""]
    assert nearest_neighbour(TRAIN, texts) == [["buses", "rain"], ["dogs"], [], []]


def test_rare_words_weigh_more():
    train = [TextPost("the the the cat", ("common",)), *[TextPost("the end", ("end",))] * 8]
    assert nearest_neighbour(train, ["the cat"]) == [["common"]]


def test_chunks_do_not_change_the_predictions(monkeypatch):
    texts = [post.text for post in TRAIN] * 3
    whole = nearest_neighbour(TRAIN, texts)
    monkeypatch.setattr(baselines, "CHUNK", 5)
    assert nearest_neighbour(TRAIN, texts) == whole


def test_without_words_to_compare_nothing_is_predicted():
    assert nearest_neighbour([], ["a dog"]) == nearest_neighbour(TRAIN[3:], ["a dog"]) == [[]]
    assert nearest_neighbour(TRAIN, []) == []
