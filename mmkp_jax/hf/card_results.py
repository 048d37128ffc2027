"""The scores in a model card."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

HEADLINES = ("f1@1", "f1@M")

FURTHER = ("f1@O", "hit@3", "hit@5")

FURTHER_NOTE = """\
Of all these posts: F1@O takes as many predictions as a post has keyphrases, HIT@k is the share of posts with a right
one among the first k; words and tokens are those of an output; repeats are keyphrases that an output writes again,
diversity is distinct over all predicted ones, novelty the share outside of the training keyphrases, ECE the expected
calibration error of the product of a keyphrase's token probabilities."""


class Results(NamedTuple):
    """Scores of the exported step on the first dataset's test split, as fractions."""

    scores: Mapping[str, Mapping[str, float] | None]
    intervals: Mapping[str, Mapping[str, tuple[float, float]] | None]
    """95% intervals; empty where there are none."""
    resamples: int
    answers: Mapping[str, float] = MappingProxyType({})
    """What `evaluation.companions` measures: shares as fractions, words and tokens as numbers."""


def results_text(results: Results | None) -> str:
    """The scores by group, and the further measures, in Markdown."""
    if results is None:
        return "No scores: this step was not evaluated, or its dataset was not available."
    scores, intervals, resamples, answers = results
    lines = [("group", "n", *map(str.upper, HEADLINES))]
    for group, found in scores.items():
        if found is not None:
            cells = (_cell(found[metric], (intervals.get(group) or {}).get(metric)) for metric in HEADLINES)
            lines.append((group, f"{found['n']:,}", *cells))
    note = "In percent, on the test split, by the protocol of CMKP (Wang et al., EMNLP 2020)"
    note += f"; in brackets 95% intervals over {resamples:,} resamples of the posts." if intervals else "."
    without = [group for group, found in scores.items() if found is None]
    parts = [note, rows_of(lines), *([f"No such posts: {', '.join(without)}."] if without else [])]
    return "\n\n".join(parts + _further(scores.get("all") or {}, answers))


def _further(scores: Mapping[str, float], answers: Mapping[str, float]) -> list[str]:
    """Metrics and measures of all posts, as one table, and what they are."""
    found = {name: f"{100 * scores[name]:.2f}" for name in FURTHER if name in scores}
    lengths = ("words", "tokens")
    found |= {name: f"{value if name in lengths else 100 * value:.2f}" for name, value in answers.items()}
    names = {name: name.replace("_", " ") for name in answers} | {"ece": "ECE"} | {n: n.upper() for n in FURTHER}
    rows = [tuple(names[name] for name in found), tuple(found.values())]
    return [FURTHER_NOTE, rows_of(rows)] if found else []


def _cell(value: float, interval: tuple[float, float] | None) -> str:
    return f"{100 * value:.2f}" + (f" [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]" if interval else "")


def rows_of(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], re.sub(r"[^|]+", " --- ", lines[0]), *lines[1:]])
