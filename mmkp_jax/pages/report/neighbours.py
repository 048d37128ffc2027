"""Wrong predictions next to the most similar training posts (the paper's Figure 5), which may explain them."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmkp_jax.evaluation.baselines import nearest_neighbour
from mmkp_jax.evaluation.stemming import stem_words
from mmkp_jax.pages.report.data import PostText, ReportData
from mmkp_jax.pages.report.runs import ReportRun
from mmkp_jax.pages.report.scores import WRONG, RunScores

EXAMPLES = 6
"""Number of posts shown for each run."""


class Example(NamedTuple):
    """A post without a hit, and the training post with the most similar text."""

    number: int
    """The post's number."""
    predicted: list[str]
    near: int
    """The training post's number."""
    shared: list[str]
    """Predictions that are keyphrases of the training post."""


class Neighbours(NamedTuple):
    """The errors of one run."""

    name: str
    wrong: int
    """Number of posts without a hit."""
    from_neighbour: int
    """Number of these with a prediction that is a keyphrase of the most similar training post."""
    examples: list[Example]


@dataclasses.dataclass(frozen=True)
class _Numbered:
    """A training post whose only keyphrase is its number, so that `nearest_neighbour` returns that number."""

    text: str
    keyphrases: tuple[int]


def nearest_posts(train: Sequence[PostText], texts: Sequence[str]) -> list[int | None]:
    """For each text, the number of the training post with the most similar text; None if none shares a word."""
    numbered = [_Numbered(post.text, (number,)) for number, post in enumerate(train)]
    return [found[0] if found else None for found in nearest_neighbour(numbered, texts)]


def neighbours(runs: Sequence[ReportRun], scored: Sequence[RunScores], data: ReportData) -> list[Neighbours]:
    """The wrong predictions of each run; those that repeat the training post's keyphrases are shown first."""
    wrong = [np.flatnonzero(each.verdict_N() == WRONG).tolist() for each in scored]
    numbers = sorted(set().union(*wrong))
    near = nearest_posts(data.train, [data.test[number].text for number in numbers])
    near_of = dict(zip(numbers, near, strict=True))
    return [_of_run(run, each, near_of, data.train) for run, each in zip(runs, wrong, strict=True)]


def _of_run(
    run: ReportRun, wrong: Sequence[int], near_of: dict[int, int | None], train: Sequence[PostText]
) -> Neighbours:
    found = []
    for number in wrong:
        if (near := near_of[number]) is not None:
            carried = {stemmed(phrase) for phrase in train[near].keyphrases}
            predicted = run.answers[number].predicted
            shared = [phrase for phrase in predicted if stemmed(phrase) in carried]
            found.append(Example(number, predicted, near, shared))
    found.sort(key=lambda each: not each.shared)
    return Neighbours(run.name, len(wrong), sum(bool(each.shared) for each in found), found[:EXAMPLES])


def stemmed(phrase: str) -> str:
    """The phrase as the metric compares phrases."""
    return stem_words(phrase.strip().lower().split(" "))
