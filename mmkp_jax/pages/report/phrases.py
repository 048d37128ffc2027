"""The report's table of keyphrases: which are missed most, by how many of their posts they were found."""

from collections import Counter
from collections.abc import Sequence

from mmkp_jax.evaluation.metric import predicted_phrases, target_phrases
from mmkp_jax.pages.report.runs import ReportRun
from mmkp_jax.pages.tables import Table, count, plain

MOST = 25
"""Rows of the table."""


def missed_table(runs: Sequence[ReportRun], train: Sequence[Sequence[str]] | None) -> Table:
    """The keyphrases that the first run misses most often, the most frequent first among equals.

    For each run the share of the keyphrase's posts where it is among all predictions, equal after stemming as in the
    metric, and the posts where it was predicted and is not gold.

    Args:
        train: keyphrases of each training post, to count how often it was there to be learned; None where unknown.
    """
    gold = [target_phrases(answer.keyphrases) for answer in runs[0].answers]
    posts = Counter(phrase for each in gold for phrase in each)
    names = {phrase: raw for each in reversed(gold) for phrase, raw in each.items()}
    learned = None if train is None else Counter(phrase for each in train for phrase in target_phrases(each))
    found, wrong = [], []
    for run in runs:
        predicted = [predicted_phrases(answer.predicted) for answer in run.answers]
        pairs = list(zip(gold, predicted, strict=True))
        found.append(Counter(phrase for own, said in pairs for phrase in own if phrase in said))
        wrong.append(Counter(phrase for own, said in pairs for phrase in said if phrase not in own))
    missed = sorted(posts, key=lambda each: (found[0][each] - posts[each], -posts[each], names[each]))
    rows = [
        (
            plain(names[each], 40),
            count(posts[each]),
            *(() if learned is None else (count(learned[each]),)),
            *(
                cell
                for right, other in zip(found, wrong, strict=True)
                for cell in (count(right[each]), count(other[each]))
            ),
        )
        for each in missed[:MOST]
        if found[0][each] < posts[each]
    ]
    of_run = [f"{plain(run.name, 40)}: " if len(runs) > 1 else "" for run in runs]
    header = ("keyphrase", "posts", *(() if learned is None else ("in training posts",)))
    header = (*header, *(f"{name}{kind}" for name in of_run for kind in ("found", "wrongly given")))
    of_first = "the run" if len(runs) == 1 else plain(runs[0].name, 40)
    notes = [
        f"the {count(len(rows))} of {count(len(posts))} test keyphrases that {of_first} misses most; found: among"
        " all predictions of a post"
    ]
    return Table("Keyphrases that are missed most", header, rows, notes)
