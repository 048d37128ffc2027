"""The body of `judge`: a model ranks systems, and its ranks are compared with people's."""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkp_jax.data.numbered import Numbered
from mmkp_jax.data.posts import Post, Record
from mmkp_jax.evaluation.files import read_predictions
from mmkp_jax.evaluation.outputs import split_keyphrases
from mmkp_jax.judging.people import read_people
from mmkp_jax.judging.rank_summary import summarize_ranks, tau_b
from mmkp_jax.judging.ranking import (
    FIELDS,
    RANK,
    Rankings,
    Study,
    average_ties,
    collect_rankings,
    ranking_rejector,
    read_rankings,
)
from mmkp_jax.runtime.atomic import write_json, write_text
from mmkp_jax.runtime.escape import for_terminal, for_utf8
from mmkp_jax.teacher.flags import (
    endpoint_of,
    prices_of,
)
from mmkp_jax.teacher.progress import AskState
from mmkp_jax.teacher.session import ask_questions, print_forecast
from mmkp_jax.teacher.templates import Template, read_template

ANSWERS, RANKINGS, PAIRED, RESULTS, FAILURES, PEOPLE = (
    "answers.jsonl",
    "rankings.jsonl",
    "pairs.jsonl",
    "results.json",
    "failures.jsonl",
    "people",
)
"""Names of files in --out."""


def judge(
    flags: argparse.Namespace, records: Numbered[Record], systems: dict[str, list[list[str]]]
) -> dict[str, Any] | None:
    """Has the endpoint rank the systems; returns the content of `results.json`, or None for a dry run."""
    study = Study(
        records,
        systems,
        endpoint_of(flags),
        _template(flags.template),
        flags.orders,
        flags.pairs,
        flags.image_edge,
    )
    questions = study.questions, study.question_of(), study.endpoint
    if flags.dry_run:
        print_forecast(flags, *questions)
        return None
    study.endpoint.key()  # before anything is written
    flags.out.mkdir(parents=True, exist_ok=True)
    with ask_questions(flags, *questions, reject=ranking_rejector(study), unit="question") as (done, store):
        rankings = collect_rankings(study, done, store)
    return _finish(flags, study, done, rankings)


def systems_of(files: Sequence[Path], posts: Sequence[Post]) -> dict[str, list[list[str]]]:
    """Keyphrases of each system by its short name, without chains of thought."""
    short = [file.stem for file in files]
    names = short if len(set(short)) == len(short) else list(map(str, files))
    predicted = (read_predictions(file, posts).predictions for file in files)
    return {
        name: [split_keyphrases(each) if isinstance(each, str) else each for each in lines]
        for name, lines in zip(names, predicted, strict=True)
    }


def _template(file: Path | None) -> Template:
    if file is None:
        return RANK
    template = read_template(file)
    template.check(["text", "outputs"], FIELDS, str(file))
    return template


def _finish(flags: argparse.Namespace, study: Study, done: AskState, rankings: Rankings) -> dict[str, Any]:
    """Writes and prints the judge's results."""
    pairs, wins = len(rankings.complete_pairs), rankings.wins()
    consistent = 1 - sum(each["turned"] for each in wins) / pairs if pairs else None
    summary = summarize_ranks(rankings.systems, rankings.written_POCN)
    reasons = Counter(each["reason"] for each in rankings.failures).most_common(1)
    results = {
        "model": study.endpoint.model,
        "prompt": study.template.version,
        "posts": len(rankings.ids),
        "questions": study.questions,
        "failures": len(rankings.failures),
        "commonest_failure": reasons[0][0] if reasons else None,
        "stopped": done.stopped,
        "pairs": pairs,
        "position_consistent": consistent,
        "wins": wins,
        "standing": summary and summary.as_json(),
    }
    _lines(flags.out / RANKINGS, rankings.rows())
    _lines(flags.out / PAIRED, [pair._asdict() for pair in rankings.pairs])
    _lines(flags.out / FAILURES, rankings.failures)
    write_json(flags.out / RESULTS, results)
    print_names("\n".join(summary.lines()) if summary else "no post has all its ranks")
    if len(study.compared) < flags.pairs:
        print(f"pairs: {len(study.compared):,} of {flags.pairs:,}, as there are no more posts with differing lists")
    if consistent is not None:
        print(f"pairs in both orders: {consistent:.2%} of {pairs:,} got the same answer")
    for each in wins:
        (a, won), (b, lost) = each["wins"].items()
        print_names(f"  {a} {won:,} – {b} {lost:,}; {each['ties']:,} ties, {each['turned']:,} turned with the order")
    print(f"answers without readable ranks: {len(rankings.failures):,} of {study.questions:,}; see {FAILURES}")
    print("\n".join(done.lines(prices_of(flags))))
    print_names(f"written: {flags.out}")
    return results


def compare_with_people(flags: argparse.Namespace) -> dict[str, Any]:
    """Writes and prints people's ranks, and the model's agreement with them."""
    systems, ids, written_POCN = read_people(flags.out / PEOPLE, flags.collect)
    people = summarize_ranks(systems, written_POCN)
    model = read_rankings(flags.out / RANKINGS, systems)
    both = [place for place, post in enumerate(ids) if post in model]
    results: dict[str, Any] = {"people": people.as_json(), "posts_of_both": len(both), "tau_b": None}
    print_names("people: " + "\n".join(people.lines()))
    if both:
        model_PCN = np.stack([model[ids[place]] for place in both])
        taus = tau_b(average_ties(written_POCN[both]).mean(axis=1), model_PCN)
        results["tau_b"] = {name: None if np.isnan(value) else value for name, value in taus.items()}
        values = ", ".join(f"{name} {'–' if np.isnan(value) else format(value, '.2f')}" for name, value in taus.items())
        print_names(f"Kendall's tau-b with the model on {len(both):,} of {len(ids):,} posts: {values}")
    else:
        print("no ranks of a model to compare with: run `judge` with the same --out")
    write_json(flags.out / PEOPLE / RESULTS, results)
    print_names(f"written: {flags.out / PEOPLE / RESULTS}")
    return results


def _lines(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(file, for_utf8("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)))


def print_names(text: str) -> None:
    """Prints text with names of systems, which are names of files, safely for a terminal."""
    print(for_terminal(text, lines=True))
