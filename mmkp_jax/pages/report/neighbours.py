"""Wrong answers beside the most similar training posts (the paper's Figure 5): do they come from there?"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmkp_jax.evaluation.baselines import nearest_neighbour
from mmkp_jax.evaluation.stemming import stem_words
from mmkp_jax.pages.report.data import ReportData, Words
from mmkp_jax.pages.report.runs import ReportRun
from mmkp_jax.pages.report.scores import WRONG, RunScores

EXAMPLES = 6
"""Posts shown of each run."""


class Example(NamedTuple):
    """A post without a hit, and the training post with the most similar text."""

    number: int
    """Of the post."""
    predicted: list[str]
    near: int
    """The training post's number."""
    shared: list[str]
    """What was predicted and is a keyphrase of the training post."""


class Neighbours(NamedTuple):
    """Of one run."""

    name: str
    wrong: int
    """Posts without a hit."""
    from_neighbour: int
    """Of them, those with a prediction that the most similar training post carries."""
    examples: list[Example]


@dataclasses.dataclass(frozen=True)
class _Numbered:
    """A training post whose keyphrases are its number, so that the nearest neighbour's are the neighbour itself."""

    text: str
    keyphrases: tuple[int]


def nearest_posts(train: Sequence[Words], texts: Sequence[str]) -> list[int | None]:
    """The number of the training post whose text is most like each text; None where none has a word in common."""
    numbered = [_Numbered(post.text, (number,)) for number, post in enumerate(train)]
    return [found[0] if found else None for found in nearest_neighbour(numbered, texts)]


def neighbours(runs: Sequence[ReportRun], scored: Sequence[RunScores], data: ReportData) -> list[Neighbours]:
    """The wrong answers of each run; those that repeat the training post's keyphrases are shown first."""
    wrong = [np.flatnonzero(each.verdict_N() == WRONG).tolist() for each in scored]
    asked = sorted(set().union(*wrong))
    near_of = dict(zip(asked, nearest_posts(data.train, [data.test[number].text for number in asked]), strict=True))
    return [_of_run(run, numbers, near_of, data.train) for run, numbers in zip(runs, wrong, strict=True)]


def _of_run(run: ReportRun, wrong: Sequence[int], near_of: dict[int, int | None], train: Sequence[Words]) -> Neighbours:
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
    """As the metric compares phrases."""
    return stem_words(phrase.strip().lower().split(" "))
