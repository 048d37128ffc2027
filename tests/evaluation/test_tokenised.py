"""Keyphrases in texts whose punctuation is still on their words."""

import pytest

from mmkp_jax.evaluation.files import read_posts
from mmkp_jax.evaluation.tokenised import HiddenKeyphrases, hidden_keyphrases, tokenise, tokenise_phrases
from tests.support.shared_folder import TextPost, cmkp


@pytest.mark.parametrize(
    "text, words",
    [
        ("Loving Paris!", "loving paris"),
        ("#sunrise, (again)… “wow”", "sunrise again wow"),
        ("a rock-n-roll day @ home -- 'twas R&B", "a rock-n-roll day home twas r&b"),
        ("<number> votes / <url>", "<number> votes <url>"),
        ("東京！晴れ", "東京 晴れ"),
        ("!?", ""),
    ],
)
def test_words_without_the_punctuation_around_them(text, words):
    assert tokenise(text) == words


def test_a_phrase_without_words_stays():
    assert tokenise_phrases(["#Paris;!?", ["Snow!"]]) == [["paris", "!?"], ["snow"]]


def test_hidden_keyphrases_are_counted():
    posts = [
        TextPost("Loving Paris!", ("paris", "france")),
        TextPost("two dogs.", ("dog", "cat")),  # by its stem
        TextPost("paris again", ("paris",)),
    ]
    assert (
        hidden_keyphrases(posts) == HiddenKeyphrases(2, 5, ("paris", "Loving Paris!"))
        and hidden_keyphrases(posts).is_common
    )
    assert (
        hidden_keyphrases(posts[2:]) == HiddenKeyphrases(0, 1, ("", "")) and not hidden_keyphrases(posts[2:]).is_common
    )


def test_cmkps_posts_are_tokenised():
    assert not hidden_keyphrases(read_posts(cmkp("tw_mm_s1/test_src.txt"))).is_common
