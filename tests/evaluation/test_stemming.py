"""Stems are those that the published scores were taken with."""

from mmkp_jax.evaluation.stemming import stem, stem_words
from tests.support.shared_folder import cmkp


def test_stems_are_those_of_the_published_table():
    lines = cmkp("porter_stems.tsv").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    pairs = [line.split("\t") for line in lines]
    assert len(pairs) == 24_819
    assert [(word, stem(word)) for word, _ in pairs] == [(word, stemmed) for word, stemmed in pairs]


def test_a_word_is_stripped_and_lower_cased_first():
    assert stem(" Running\t") == "run"
    assert stem_words(["Dogs", "", "happily"]) == "dog  happili"


def test_endless_words_are_stemmed():
    assert stem("y" * 50_000 + "s")
    assert stem("ay" * 20_000 + "ational")
