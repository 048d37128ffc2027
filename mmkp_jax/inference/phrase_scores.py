"""Log-probabilities of the keyphrases of an output, from those of its tokens."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mmkp_jax.evaluation.outputs import keyphrase_spans
from mmkp_jax.evaluation.predictions import PhraseScores

DIGITS = 4
"""Decimals of a log-probability; others depend on the number of slots and the mesh."""


def score_phrases(
    predicted: Sequence[str],
    output: str,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    decode: Callable[[Sequence[int]], str],
) -> PhraseScores | None:
    """The log-probabilities of keyphrases, each of the tokens that have one of its characters.

    Args:
        predicted: the keyphrases of the output, read strictly.
        tokens: the tokens that `decode` makes the output from.
        logprobs: log-probabilities of the tokens, in nats.

    Returns:
        None if nothing is predicted, a token cannot be found in the output, or a number is not finite.
    """
    spans = keyphrase_spans(output)
    if not predicted or not all(map(math.isfinite, logprobs)):
        return None
    groups, first = [], min(start for start, _ in spans.values())
    for group in _from_the_end(output, tokens, decode):
        groups.append(group)
        if group.start <= first:
            break
    else:
        return None
    sums, means = [], []
    for start, end in map(spans.__getitem__, predicted):
        own = [logprob for each in groups if each.start < end and each.end > start for logprob in logprobs[each.tokens]]
        sums.append(_rounded(sum(own)))
        means.append(_rounded(sum(own) / len(own)))
    return PhraseScores(tuple(sums), tuple(means))


class _Group(NamedTuple):
    """A token, or several that share a character, and the characters that they make."""

    tokens: slice
    start: int
    end: int


def _from_the_end(output: str, tokens: Sequence[int], decode: Callable[[Sequence[int]], str]) -> Iterator[_Group]:
    """Yields the tokens from the last one on, so that a long reasoning need not be decoded again."""
    last, end = len(tokens), len(output)
    for first in reversed(range(len(tokens))):
        piece = decode(tokens[first:last])
        if piece and output.endswith(piece, 0, end):  # else a part of a character
            yield _Group(slice(first, last), end - len(piece), end)
            last, end = first, end - len(piece)


def _rounded(logprob: float) -> float:
    return min(round(logprob, DIGITS), 0.0) + 0.0  # no positive one by rounding, and no -0.0
