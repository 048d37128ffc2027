"""One judgement of a chain of thought: taken out of its tags, or refused; nothing nested becomes a target."""

import pytest

from mmkp_jax.data.chains import TAG, chain_of, check_keyphrases
from mmkp_jax.data.fields import BadLine

KEYPHRASES = ("fresh bread", "Loaves")


@pytest.mark.parametrize(
    ("text", "chain"),
    [
        ("  It is bread. ", "It is bread."),
        (" \n", ""),
        ("<think>hm</think>", "hm"),
        (" <think>\nhm\n</think>\n", "hm"),
        ("<think>Loaves.</think><answer>fresh bread; loaves</answer>", "Loaves."),
        ("<think>Loaves.</think> <answer> LOAVES;Fresh  bread; </answer>", "Loaves."),
        ("<think></think>", ""),
        ("<THINK>hm</Think>", "hm"),
        ("a < b and <b>bold</b> and <thinking>", "a < b and <b>bold</b> and <thinking>"),
    ],
)
def test_a_chain_comes_out_of_its_tags(text, chain):
    assert chain_of(text, KEYPHRASES) == chain


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>a<think>b</think></think>", "tag '<think>'"),
        ("<think>a</think><think>b</think>", "tag '<think>'"),
        ("<think>cut off", "tag '<think>'"),
        ("<THINK>abc</THINK><ANSWER>x y</ANSWER>", "ends in the answer 'x y'"),
        ("why <ANSWER>x", "tag '<ANSWER>'"),
        ("so </think> then", "tag '</think>'"),
        ("why<answer>fresh bread; loaves</answer>", "tag '<answer>'"),
        ("<think>a</think> and more", "tag '<think>'"),
        ("<think>a</think><answer>fresh bread; loaves", "tag '<think>'"),
        ("<think>a</think><answer>fresh bread</answer>", "ends in the answer 'fresh bread'"),
        ("<think>a</think><answer></answer>", "ends in the answer ''"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(text, reason):
    with pytest.raises(BadLine) as bad:
        chain_of(text, KEYPHRASES, "p")
    assert reason in bad.value.reason and bad.value.id == "p" and bad.value.hint


def test_without_keyphrases_the_answer_is_not_compared():
    assert chain_of("<think>a</think><answer>whatever</answer>", None) == "a"


@pytest.mark.parametrize("keyphrase", ["</answer>", "a <think> b", "<answer>x</answer>"])
def test_a_keyphrase_with_a_tag_is_refused(keyphrase):
    with pytest.raises(BadLine, match="holds a tag"):
        check_keyphrases(("fine", keyphrase))
    assert TAG.search(keyphrase)
