"""Measures next to CMKP's metric: length, repeats, diversity, novelty and reliability of a split's predictions.

Phrases are compared as CMKP's rules 1 to 3 do (`metric`): stemmed, once a post, and without unwanted ones; an empty
phrase is none. Each measure is over all of a split's posts at once, not a mean over posts. In `MEASURES`:

- `words`, `tokens`: means over the outputs (`outputs.mean_words`, `outputs.mean_tokens`).
- `repeats`: of the keyphrases that the outputs write, the share that the same output has written before.
- `diversity`: distinct predicted keyphrases over all predicted ones; 1 if no two posts get the same.
- `novelty`: of the predicted keyphrases, the share that is not among the training keyphrases. These are stemmed too,
  unlike those of the metric's groups seen and unseen.
- `novel_precision`: of these, the share that is a target, over the posts that have targets.
- `ece`: expected calibration error (`reliability`).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmkp_jax.evaluation.metric import Phrases, PostLike, predicted_phrases, target_phrases
from mmkp_jax.evaluation.outputs import Reading, mean_tokens, mean_words, written_keyphrases
from mmkp_jax.evaluation.stemming import stem_words

MEASURES = ("words", "tokens", "repeats", "diversity", "novelty", "novel_precision", "ece")

BINS = 10
"""Bins of confidence, of equal width."""


class Bin(NamedTuple):
    """The predicted keyphrases with a confidence above `low` and up to `high` (0 is in the first bin)."""

    low: float
    high: float
    n: int
    confidence: float | None
    """Mean confidence; None without keyphrases."""
    precision: float | None
    """The share that is a target; None without keyphrases."""


def companions(
    posts: Sequence[PostLike],
    predictions: Sequence[Phrases],
    train_keyphrases: Collection[str] | None = None,
    *,
    outputs: Sequence[str] | None = None,
    tokens: Sequence[int] | None = None,
    logprobs: Sequence[Sequence[float]] | None = None,
    reading: Reading = "strict",
) -> dict[str, float]:
    """Those of `MEASURES` that can be measured, as fractions, words and tokens as numbers.

    Args:
        posts, predictions: as for `metric.score`.
        train_keyphrases: without them there is no novelty.
        outputs: what the model wrote, not necessarily for each of the posts; without them, no words and repeats.
        tokens: the number of tokens of each output.
        logprobs: as for `reliability`; without them there is no ECE.
        reading: how the outputs are split into keyphrases.
    """
    found = {}
    if outputs:
        found["words"] = mean_words(outputs)
        found["tokens"] = mean_tokens(tokens, outputs) if tokens else None
        found["repeats"] = repeats(outputs, reading)
    found["diversity"] = diversity(predictions)
    if train_keyphrases is not None:
        found |= novelty(posts, predictions, train_keyphrases)
    if logprobs is not None:
        found["ece"] = calibration_error(reliability(posts, predictions, logprobs))
    return {name: found[name] for name in MEASURES if found.get(name) is not None}


def repeats(outputs: Sequence[str], reading: Reading = "strict") -> float | None:
    """The share of written keyphrases that the same output has written before; None if nothing is written."""
    written = [[_stemmed(each) for each in written_keyphrases(output, reading)] for output in outputs]
    total = sum(map(len, written))
    return sum(len(each) - len(set(each)) for each in written) / total if total else None


def diversity(predictions: Sequence[Phrases]) -> float | None:
    """Distinct predicted keyphrases over all predicted ones; None if nothing is predicted."""
    predicted = [stemmed for each in predictions for stemmed in _predicted(each)]
    return len(set(predicted)) / len(predicted) if predicted else None


def novelty(
    posts: Sequence[PostLike], predictions: Sequence[Phrases], train_keyphrases: Collection[str]
) -> dict[str, float | None]:
    """`novelty` and `novel_precision`; each None without any keyphrase that it is a share of."""
    known = {_stemmed(each) for each in train_keyphrases}
    total = novel = judged = right = 0
    for post, each in zip(posts, predictions, strict=True):
        predicted, targets = _predicted(each), target_phrases(post.keyphrases)
        new = predicted.keys() - known
        total, novel = total + len(predicted), novel + len(new)
        if targets:
            judged, right = judged + len(new), right + len(new & targets.keys())
    return {"novelty": novel / total if total else None, "novel_precision": right / judged if judged else None}


def reliability(
    posts: Sequence[PostLike], predictions: Sequence[Sequence[str]], logprobs: Sequence[Sequence[float]]
) -> list[Bin]:
    """The predicted keyphrases by their confidence, in `BINS` bins (Guo et al., ICML 2017, "On Calibration").

    The confidence in a keyphrase is exp of its log-probability: the product of its tokens' probabilities. Posts without
    targets are left out.

    Args:
        logprobs: the log-probability of each of a post's predictions, in nats (`predictions.PhraseScores.logprob`).
    """
    confidence_Q, right_Q = [], []
    for post, each, own in zip(posts, predictions, logprobs, strict=True):
        targets, first = target_phrases(post.keyphrases), {}
        for phrase, logprob in zip(each, own, strict=True):
            for stemmed in _predicted([phrase]):
                first.setdefault(stemmed, logprob)
        if targets:
            confidence_Q += np.exp(list(first.values())).tolist()
            right_Q += [stemmed in targets for stemmed in first]
    edge_B = np.arange(BINS + 1) / BINS
    bin_Q = np.searchsorted(edge_B[1:-1], confidence_Q)  # the first bin whose upper edge is not below
    n_B, confidence_B, right_B = (
        np.bincount(bin_Q, weights, minlength=BINS) for weights in (None, confidence_Q, right_Q)
    )
    return [
        Bin(low, high, int(n), *((confidence / n, right / n) if n else (None, None)))
        for low, high, n, confidence, right in zip(
            *(each.tolist() for each in (edge_B[:-1], edge_B[1:], n_B, confidence_B, right_B)), strict=True
        )
    ]


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """ECE: the mean over keyphrases of |precision - confidence| of their bin; None without keyphrases."""
    total = sum(each.n for each in bins)
    return sum(each.n * abs(each.precision - each.confidence) for each in bins if each.n) / total if total else None


def mean_over_runs(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure that all runs have."""
    return {name: float(np.mean([run[name] for run in runs])) for name in MEASURES if all(name in run for run in runs)}


def _predicted(phrases: Phrases) -> dict[str, str]:
    """`metric.predicted_phrases` without the empty one."""
    return {stemmed: raw for stemmed, raw in predicted_phrases(phrases).items() if stemmed}


def _stemmed(phrase: str) -> str:
    return stem_words(phrase.strip().lower().split(" "))
