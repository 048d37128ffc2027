"""Log-probabilities of keyphrases are those of their own tokens, whatever tokens and outputs are like."""

import math

import pytest

from mmkp_jax.evaluation.outputs import parse_output
from mmkp_jax.evaluation.predictions import PhraseScores
from mmkp_jax.inference.phrase_scores import score_phrases


def scores(*pieces, decode=None):
    """Scores of the output made of these (text, log-probability), as {keyphrase: (sum, mean)}."""
    texts, logprobs = zip(*pieces, strict=True)
    decode = decode or (lambda tokens: "".join(texts[token] for token in tokens))
    output = decode(range(len(texts)))
    predicted, _ = parse_output(output)
    found = score_phrases(predicted, output, range(len(texts)), logprobs, decode)
    return found and dict(zip(predicted, zip(*found, strict=True), strict=True))


def test_a_keyphrase_has_the_tokens_that_have_its_characters():
    """Blanks and `;` are no part of it; a token that it shares with one of them is."""
    found = scores(("New", -1), (" York", -2), (";", -10), (" ", -10), ("bus; d", -0.5), ("og", -0.25))
    assert found == {"new york": (-3, -1.5), "bus": (-0.5, -0.5), "dog": (-0.75, -0.375)}


def test_only_the_answer_counts_in_an_output_with_reasoning():
    answer = ("<answer>", -10), (" dog", -1), ("; cat", -2), ("</answer>", -10), (" bye", -10)
    assert scores(("<think>dog; cat", -10), ("</think>", -10), *answer) == {"dog": (-1, -1), "cat": (-2, -2)}


def test_a_repeat_has_the_scores_of_where_it_is_written_first():
    assert scores(("dog", -1), ("; Dog", -0.01), ("; cat", -2)) == {"dog": (-1, -1), "cat": (-2, -2)}


def test_a_character_of_several_tokens_is_one_group():
    """The bytes of `é` and of an emoji come one by one, as in byte-level tokenizers."""
    data = [b"caf", *(bytes([each]) for each in "é".encode()), b"; ", *(bytes([b]) for b in "🤷".encode())]
    found = scores(
        *((each, -1 - number) for number, each in enumerate(data)),
        decode=lambda tokens: b"".join(data[token] for token in tokens).decode("utf-8", "replace"),
    )
    assert found == {"café": (-6, -2), "🤷": (-5 - 6 - 7 - 8, -6.5)}


def test_a_tokenizer_that_removes_spaces_between_tokens_is_followed():
    texts = ["dog", " cat", " .", "; bus"]
    found = scores(
        *((each, -1 - number) for number, each in enumerate(texts)),
        decode=lambda tokens: "".join(texts[token] for token in tokens).replace(" .", "."),
    )
    assert found == {"dog cat.": (-6, -2), "bus": (-4, -4)}


@pytest.mark.parametrize("output", ["", " ; ", "<think>dog", "<think>x</think><answer></answer>"])
def test_without_keyphrases_there_are_no_scores(output):
    assert scores((output, -1.0)) is None


def test_what_cannot_be_told_is_absent():
    assert scores(("dog", math.nan)) is None
    assert score_phrases(["dog"], "dog", [0], [-1.0], lambda tokens: "?") is None


def test_a_log_probability_is_at_most_0_and_rounded():
    assert score_phrases(["dog"], "dog", [0], [1e-7], lambda _: "dog") == PhraseScores((0.0,), (0.0,))
    assert math.copysign(1, score_phrases(["dog"], "dog", [0], [-1e-7], lambda _: "dog").logprob[0]) == 1
    assert score_phrases(["dog"], "dog", [0], [-0.123456], lambda _: "dog").logprob == (-0.1235,)


def test_a_long_output_is_decoded_from_its_end():
    decoded = []

    def decode(tokens):
        decoded.append(len(tokens))
        return "".join("<think>x</think><answer>dog; cat</answer>" if n == 999 else "y" for n in tokens)

    output = decode(range(1000))
    assert score_phrases(["dog", "cat"], output, range(1000), [-1.0] * 1000, decode).logprob == (-1, -1)
    assert decoded == [1000, 1]
