"""Scores of each run's predictions, by post and overall.

Legend: `N` posts of the test split.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.companions import Bin, companions, reliability
from mmkp_jax.evaluation.metric import GROUPS, PostCounts, Scores, per_post, scores_of
from mmkp_jax.evaluation.predictions import all_logprobs
from mmkp_jax.evaluation.semantic import Embed, semantic_scores
from mmkp_jax.evaluation.significance import Differences, Intervals, compare, intervals
from mmkp_jax.pages.report.data import PostText, ReportData
from mmkp_jax.pages.report.runs import ReportRun

RIGHT, PARTLY, WRONG = range(3)
VERDICTS = ("right", "partly", "wrong")
"""Verdicts on a post: all of its keyphrases and nothing else; some of them; none."""


class RunScores(NamedTuple):
    """One run's scores."""

    counts: dict[str, PostCounts | None]
    """Counts by group; without the data, only for the group `all`."""
    scores: Scores
    intervals: Intervals
    answers: Mapping[str, float]
    """Those of `companions.MEASURES` that can be measured; without the data, no novelty."""
    bins: Sequence[Bin] | None
    """Its keyphrases by confidence; None if the predictions have no log-probabilities."""
    semantics: Mapping[str, float] | None
    """`semantic.semantic_scores`; None without an embedding."""

    def verdict_N(self) -> np.ndarray:
        """The verdict `RIGHT`, `PARTLY` or `WRONG` for each post."""
        found = self.counts["all"]
        hits_N, predictions_N = found.hits_NK[:, -1], found.predictions_NK[:, -1]
        whole_N = (hits_N == found.targets_N) & (hits_N == predictions_N)
        return np.where(hits_N == 0, WRONG, np.where(whole_N, RIGHT, PARTLY))

    def in_group_N(self, group: str) -> np.ndarray:
        """A bool for each post: whether it has a keyphrase in the group; all False if the group cannot be formed."""
        all_, found = self.counts["all"], self.counts[group]
        return np.zeros(len(all_.targets_N), bool) if found is None else found.targets_N > 0


def score_runs(runs: Sequence[ReportRun], data: ReportData | None, embed: Embed | None = None) -> list[RunScores]:
    """The scores of each run; without the data, those that the run wrote."""
    return [_scored(run, data, embed) for run in runs]


def compare_runs(scored: Sequence[RunScores]) -> list[Differences]:
    """Differences, the first run minus each of the others."""
    first, *others = ([each.counts] for each in scored)
    return compare(first, others) if others else []


def _scored(run: ReportRun, data: ReportData | None, embed: Embed | None) -> RunScores:
    predictions = [answer.predicted for answer in run.answers]
    if not any(answer.keyphrases for answer in run.answers):
        raise InputError("its posts have no keyphrases to be scored by", str(run.file), "predict posts that have some")
    posts = data.test if data else [PostText(each.id, "", tuple(each.keyphrases)) for each in run.answers]
    if data:
        counts = per_post(data.test, predictions, data.seen)
        scores = scores_of(counts)
    else:  # present and seen keyphrases are not known
        found = per_post(posts, predictions)
        counts = {group: found[group] if group == "all" else None for group in GROUPS}
        scores = run.results if run.results and run.results.get("all") else scores_of(counts)
    logprobs = all_logprobs([answer.scores for answer in run.answers], predictions)
    answers = companions(
        posts,
        predictions,
        data.seen if data else None,
        outputs=[answer.output for answer in run.answers],
        tokens=[answer.tokens for answer in run.answers],
        logprobs=logprobs,
    )
    bins = None if logprobs is None else reliability(posts, predictions, logprobs)
    semantics = None if embed is None else semantic_scores(posts, predictions, embed)
    return RunScores(counts, scores, intervals([counts]), answers, bins, semantics)


def differs_from_results(run: ReportRun, scored: RunScores) -> bool:
    """Whether the run's own scores differ: from another evaluation, or with other training keyphrases."""
    if run.results is None:
        return False
    return any(
        (found is None) != (run.results.get(group) is None)
        or (found is not None and not np.isclose(found["f1@1"], run.results[group]["f1@1"], atol=1e-9))
        for group, found in scored.scores.items()
    )
