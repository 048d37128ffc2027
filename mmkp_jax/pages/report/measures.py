"""The report's tables of measures beyond CMKP's metric, and of reliability."""

from collections.abc import Sequence

from mmkp_jax.evaluation.companions import BINS, MEASURES
from mmkp_jax.evaluation.metric import FURTHER
from mmkp_jax.evaluation.semantic import SEMANTIC
from mmkp_jax.evaluation.table import MEASURE_NAMES, measure
from mmkp_jax.pages.report.runs import ReportRun
from mmkp_jax.pages.report.scores import RunScores
from mmkp_jax.pages.tables import Table, count, plain
from mmkp_jax.runtime.terminal import without_repeats


def measures_table(runs: Sequence[ReportRun], scored: Sequence[RunScores]) -> Table:
    """F1@O, hit rates and what `companions` measured, a row a run; a measure that no run has is no column."""
    names = [name for name in MEASURES if any(name in each.answers for each in scored)]
    semantic = SEMANTIC if any(each.semantics for each in scored) else ()
    rows = []
    for run, each in zip(runs, scored, strict=True):
        of_all = each.scores["all"] or {}
        cells = [measure(metric, of_all.get(metric)) for metric in FURTHER]
        cells += [measure(name, each.answers.get(name)) for name in names]
        cells += [measure(name, (each.semantics or {}).get(name)) for name in semantic]
        rows.append((plain(run.name, 60), *cells))
    header = [*map(str.upper, FURTHER), *(MEASURE_NAMES[name] for name in names), *(f"semantic {n}" for n in semantic)]
    notes = [
        "In percent, except words and tokens of an output; of all posts. F1@O: with as many predictions as a post has"
        " keyphrases; hit: posts with a right one among the first k.",
        "Repeats: of the keyphrases written in the outputs; diversity: distinct over all predicted; novel: outside of"
        " the training keyphrases, and the precision of these; ECE: expected calibration error.",
    ]
    return Table("Further measures", ("", *header), rows, notes)


def reliability_table(runs: Sequence[ReportRun], scored: Sequence[RunScores]) -> Table:
    """Predicted keyphrases by confidence, for the runs whose predictions have log-probabilities."""
    rows = [
        (
            plain(run.name, 60),
            f"{100 * each.low:.0f}–{100 * each.high:.0f}",
            count(each.n),
            measure("confidence", each.confidence),
            measure("precision", each.precision),
        )
        for run, found in zip(runs, scored, strict=True)
        for each in found.bins or ()
    ]
    notes = [
        f"Confidence: the product of the probabilities of a keyphrase's tokens, in {BINS} bins of equal width, in"
        " percent; its mean against the share that is right (Guo et al., 2017)."
    ]
    header = ("run", "confidence", "keyphrases", "mean confidence", "right")
    return Table("Reliability", header, without_repeats(rows), notes, left=2)
