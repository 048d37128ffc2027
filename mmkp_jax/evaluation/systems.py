"""Systems over the same posts, scored from files: each is one run, or several of one strategy with different seeds."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmkp_jax.data.posts import Post
from mmkp_jax.evaluation.companions import companions, mean_over_runs
from mmkp_jax.evaluation.files import PredictionFile, read_predictions
from mmkp_jax.evaluation.metric import METRICS, PostLike, Scores, per_post, scores_of
from mmkp_jax.evaluation.outputs import Form, Reading, form_shares
from mmkp_jax.evaluation.semantic import SEMANTIC, Embed, semantic_scores
from mmkp_jax.evaluation.significance import Differences, Intervals, RunCounts, compare, intervals
from mmkp_jax.evaluation.tokenised import tokenise, tokenise_phrases, tokenise_posts


class System(NamedTuple):
    """One run or more of a system; each field has one entry a run."""

    files: Sequence[Path]
    predicted: Sequence[PredictionFile]
    runs: Sequence[RunCounts]
    scores: Sequence[Scores]
    answers: Sequence[Mapping[str, float]]
    """Those of `companions.MEASURES` that each run has."""
    semantics: Sequence[Mapping[str, float] | None]
    """`semantic.semantic_scores` of each run; None without an embedding."""

    @property
    def mean_answers(self) -> dict[str, float]:
        """The mean over runs of each measure that all have."""
        return mean_over_runs(self.answers)

    @property
    def mean_semantics(self) -> dict[str, float] | None:
        """The mean of the runs' semantic scores."""
        if None in self.semantics:
            return None
        return {"n": self.semantics[0]["n"]} | {
            name: float(np.mean([each[name] for each in self.semantics])) for name in SEMANTIC
        }

    @property
    def mean(self) -> Scores:
        """The mean of the runs' scores."""
        return _over_runs(self.scores, np.mean)

    @property
    def deviation(self) -> Scores | None:
        """Standard deviation (n - 1) between runs, which comes from seeds, not posts; None for a single run."""
        return _over_runs(self.scores, lambda values: np.std(values, ddof=1)) if len(self.runs) > 1 else None

    @property
    def forms(self) -> dict[Form, float] | None:
        """Shares of all runs' outputs by form; None if a file does not have forms."""
        forms = [each.forms for each in self.predicted]
        return None if None in forms else form_shares([form for each in forms for form in each])


class Comparison(NamedTuple):
    """A system next to others, with intervals and differences over posts and runs."""

    systems: Mapping[str, System]
    """The systems by short name; the first, A, is compared with the others."""
    intervals: Mapping[str, Intervals]
    """Intervals of each system; empty without resamples."""
    differences: Mapping[str, Differences]
    """Differences, A minus each of the others."""
    resamples: int

    @property
    def is_one_run(self) -> bool:
        """Whether there is only one run, so nothing to compare."""
        return len(self.systems) == len(self.systems["A"].runs) == 1

    @property
    def has_seeds(self) -> bool:
        """Whether a system has several runs, which are resampled too."""
        return any(len(system.runs) > 1 for system in self.systems.values())

    def as_json(self) -> dict[str, Any]:
        """The comparison as plain values, by system."""

        def of(name: str, system: System) -> dict[str, Any]:
            semantic = {"semantic": system.mean_semantics} if system.mean_semantics else {}
            return {
                "runs": dict(zip(map(str, system.files), system.scores, strict=True)),
                "mean": system.mean,
                "deviation": system.deviation,
                "intervals": self.intervals.get(name),
                "a_minus_this": _plain(self.differences[name]) if name in self.differences else None,
                "answers": system.mean_answers,
                **semantic,
            }

        return {"resamples": self.resamples, "systems": {name: of(name, each) for name, each in self.systems.items()}}


def read_system(
    files: Sequence[Path],
    posts: Sequence[Post],
    train_keyphrases: Collection[str] | None,
    ocr: Sequence[str] | None,
    reading: Reading = "strict",
    *,
    tokenised: bool = False,
    embed: Embed | None = None,
) -> System:
    """The system whose runs' predictions of `posts` are in these files, scored as `metric.score` does.

    Args:
        reading: as `read_predictions`.
        tokenised: compare words without punctuation on both sides (`evaluation.tokenised`), unlike CMKP's protocol.
        embed: the embedding for semantic scores.
    """
    predicted = [read_predictions(file, posts, reading) for file in files]
    words: Sequence[PostLike] = posts
    phrases = [each.predictions for each in predicted]
    if tokenised:
        words = tokenise_posts(posts)
        train_keyphrases = train_keyphrases and {tokenise(each) or each for each in train_keyphrases}
        ocr = ocr and [tokenise(each) for each in ocr]
        phrases = [tokenise_phrases(each) for each in phrases]
    runs = [per_post(words, each, train_keyphrases, ocr) for each in phrases]
    answers = [
        companions(
            words,
            each,
            train_keyphrases,
            outputs=file.outputs,
            tokens=file.tokens,
            logprobs=file.logprobs,
            reading=reading,
        )
        for each, file in zip(phrases, predicted, strict=True)
    ]
    semantics = [None if embed is None else semantic_scores(words, each, embed) for each in phrases]
    return System(files, predicted, runs, [scores_of(run) for run in runs], answers, semantics)


def compare_systems(a: System, others: Sequence[System], resamples: int) -> Comparison:
    """A compared with the others, named B, or B1, B2, … in order; scores alone if `resamples` is 0."""
    names = [f"B{number}" for number in range(1, len(others) + 1)] if len(others) > 1 else ["B"][: len(others)]
    systems = {"A": a, **dict(zip(names, others, strict=True))}
    if not resamples:
        return Comparison(systems, {}, {}, 0)
    differences = compare(a.runs, [each.runs for each in others], resamples)
    return Comparison(
        systems,
        {name: intervals(each.runs, resamples) for name, each in systems.items()},
        dict(zip(names, differences, strict=True)),
        resamples,
    )


def _over_runs(scores: Sequence[Scores], statistic: Callable[[list[float]], float]) -> Scores:
    """`statistic` of the runs' scores; n is the number of posts of each run."""

    def over(group: str) -> dict[str, float]:
        found = {metric: float(statistic([run[group][metric] for run in scores])) for metric in METRICS}
        return {"n": scores[0][group]["n"], **found}

    return {group: None if found is None else over(group) for group, found in scores[0].items()}


def _plain(differences: Differences) -> dict[str, Any]:
    return {
        group: cells and {metric: cell._asdict() for metric, cell in cells.items()}
        for group, cells in differences.items()
    }
