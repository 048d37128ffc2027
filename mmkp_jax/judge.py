"""Systems' predictions ranked by a model or by people: `python -m mmkp_jax.judge --posts=FILE --predictions=A,B …`.

The judge is any OpenAI-compatible endpoint; every answer is on disk, in --store, before anything is made of it, and the
same command goes on where a stopped one stood; one that --max_cost stops ends with the exit status 3, one without any
readable answer with 4. With --people, it writes pages for human raters instead; with --collect, it reads what they
saved, and compares it with the model's ranks in --out.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkp_jax.commands import Parser, status_of
from mmkp_jax.data.posts import Post
from mmkp_jax.evaluation.files import read_posts, read_predictions
from mmkp_jax.evaluation.outputs import split_keyphrases
from mmkp_jax.runtime.atomic import write_json, write_text
from mmkp_jax.runtime.escape import for_terminal, for_utf8
from mmkp_jax.teacher.flags import (
    add_endpoint_flags,
    add_post_flags,
    check_bounds,
    check_endpoint_flags,
    check_post_flags,
    endpoint_of,
    prices_of,
    records_of,
    refuse_flags_but,
)
from mmkp_jax.teacher.people import KEY, choose, read_people, write_sheets
from mmkp_jax.teacher.progress import Run
from mmkp_jax.teacher.ranking import (
    FIELDS,
    LABELS,
    RANK,
    Rankings,
    Study,
    averaged,
    balanced_orders,
    collect,
    read_rankings,
    rejecting,
)
from mmkp_jax.teacher.session import NOTHING, STOPPED, answered, print_bill
from mmkp_jax.teacher.standing import standing_of, tau_b
from mmkp_jax.teacher.templates import Template, field_list, read_template

MAX_TOKENS = 512
PAIRS = 100
RATERS = 4
"""As in the paper."""

ANSWERS, RANKINGS, PAIRED, RESULTS, FAILURES, PEOPLE = (
    "answers.jsonl",
    "rankings.jsonl",
    "pairs.jsonl",
    "results.json",
    "failures.jsonl",
    "people",
)
"""In --out."""

OF_PEOPLE = ("data", "split", "posts", "images", "predictions", "out", "people", "raters", "image_edge")
OF_COLLECT = ("out", "collect")
"""The flags that mean something with --people, and with --collect."""


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("judge", __doc__)
    add_post_flags(flags)
    add = flags.add_argument
    add("--predictions", type=_files, metavar="A,B,…", help="of the systems, over these posts")
    add("--out", type=Path, metavar="DIR", help="required: where ranks, results and answers are written")
    add("--orders", type=int, default=2, metavar="N", help="balanced ones, in which each post is judged (%(default)s)")
    add("--pairs", type=int, default=PAIRS, metavar="N", help="of lists compared alone, in both orders (%(default)s)")
    about = f"a prompt: system line, a line ---, user's turn; its fields: {field_list(FIELDS)}"
    add("--template", type=Path, metavar="FILE", help=about)
    add("--people", type=int, metavar="N", help="write pages with N posts for people, and ask no model")
    add("--raters", type=int, default=RATERS, metavar="N", help="of --people: pages, one a rater (%(default)s)")
    add("--collect", type=_files, metavar="A,B,…", help="what raters' pages saved: compare it with the model's ranks")
    add_endpoint_flags(flags, MAX_TOKENS)
    return flags


def run(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Judges as the flags say, printed and written; what `results.json` holds, or None where nothing was judged."""
    flags = _parse(arguments)
    if flags.collect:
        return _collect(flags)
    posts = read_posts(flags.posts or flags.data, flags.split or "")
    records = records_of(flags, posts)
    systems = _systems(flags.predictions, posts)
    if left := len(posts) - len(records):  # they are the last ones
        print(f"{left:,} of {len(posts):,} posts could not be used when the dataset was prepared, and are not judged")
    if flags.people:
        chosen = choose(len(records), min(flags.people, len(records)))
        files = write_sheets(flags.out / PEOPLE, records, systems, chosen, flags.raters, flags.image_edge)
        _print(f"written: {', '.join(map(str, files))}; keep {KEY} from the raters")
        return None
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
        print_bill(flags, *questions)
        return None
    study.endpoint.key()  # before anything is made
    flags.out.mkdir(parents=True, exist_ok=True)
    with answered(flags, *questions, reject=rejecting(study), unit="question") as (done, store):
        rankings = collect(study, done, store)
    return _finish(flags, study, done, rankings)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line on what was wrong; 3 when --max_cost came first; 4 after a line on why no
    answer can be read; 130 when interrupted, after a line on how to continue.
    """

    def status(arguments: Sequence[str] | None) -> int:
        results = run(arguments)
        if results and results.get("stopped"):
            return STOPPED
        if results and results.get("questions") and results["failures"] == results["questions"]:
            reason = for_terminal(results["commonest_failure"])
            print(f"none of {results['questions']:,} answers can be read, most often: {reason}", file=sys.stderr)
            return NOTHING
        return 0

    return status_of(status, arguments, interrupted="stopped; every answer is in --store, and the same command goes on")


def _files(text: str) -> list[Path]:
    names = text.split(",")
    if "" in names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name, or one twice")
    return [Path(name) for name in names]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    flags = parser()
    parsed = flags.parse(arguments)
    if not parsed.out:
        flags.error("--out=DIR is not given")
    if parsed.collect:
        refuse_flags_but(OF_COLLECT, parsed, flags, "does not go with --collect")
        return parsed
    check_post_flags(parsed, flags)
    if not parsed.predictions:
        flags.error("--predictions=A,B,… is not given")
    if not 2 <= len(parsed.predictions) <= len(LABELS):
        flags.error(f"--predictions names {len(parsed.predictions)} files, not 2 to {len(LABELS)}")
    for name, least in (("orders", 1), ("pairs", 0), ("raters", 1), ("people", 1)):
        if (value := getattr(parsed, name)) is not None and value < least:
            flags.error(f"--{name}={value} is less than {least}")
    if parsed.people:
        refuse_flags_but(OF_PEOPLE, parsed, flags, "does not go with --people")
        check_bounds(parsed, flags)
        return parsed
    check_endpoint_flags(parsed, flags)
    if parsed.raters != flags.get_default("raters"):
        flags.error("--raters goes with --people")
    systems = len(parsed.predictions)
    if parsed.orders > (most := len(balanced_orders(systems))):
        flags.error(f"--orders={parsed.orders} is more than the {most} balanced orders of {systems} systems")
    parsed.store = parsed.store or parsed.out / ANSWERS
    return parsed


def _systems(files: Sequence[Path], posts: Sequence[Post]) -> dict[str, list[list[str]]]:
    """Keyphrases of each system, by a short name; whatever else it wrote, a chain of thought, is left out."""
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


def _finish(flags: argparse.Namespace, study: Study, done: Run, rankings: Rankings) -> dict[str, Any]:
    """Writes and prints what the judge said."""
    whole, wins = len(rankings.whole_pairs), rankings.wins()
    consistent = 1 - sum(each["turned"] for each in wins) / whole if whole else None
    standing = standing_of(rankings.systems, rankings.written_POCN)
    reasons = Counter(each["reason"] for each in rankings.failures).most_common(1)
    results = {
        "model": study.endpoint.model,
        "prompt": study.template.version,
        "posts": len(rankings.ids),
        "questions": study.questions,
        "failures": len(rankings.failures),
        "commonest_failure": reasons[0][0] if reasons else None,
        "stopped": done.stopped,
        "pairs": whole,
        "position_consistent": consistent,
        "wins": wins,
        "standing": standing and standing.as_json(),
    }
    _lines(flags.out / RANKINGS, rankings.rows())
    _lines(flags.out / PAIRED, [pair._asdict() for pair in rankings.pairs])
    _lines(flags.out / FAILURES, rankings.failures)
    write_json(flags.out / RESULTS, results)
    _print("\n".join(standing.lines()) if standing else "no post has all its ranks")
    if len(study.compared) < flags.pairs:
        print(f"pairs: {len(study.compared):,} of {flags.pairs:,}, as there are no more posts with differing lists")
    if consistent is not None:
        print(f"pairs in both orders: {consistent:.2%} of {whole:,} got the same answer")
    for each in wins:
        (a, won), (b, lost) = each["wins"].items()
        _print(f"  {a} {won:,} – {b} {lost:,}; {each['ties']:,} ties, {each['turned']:,} turned with the order")
    print(f"answers without readable ranks: {len(rankings.failures):,} of {study.questions:,}; see {FAILURES}")
    print("\n".join(done.lines(prices_of(flags))))
    _print(f"written: {flags.out}")
    return results


def _collect(flags: argparse.Namespace) -> dict[str, Any]:
    """Writes and prints what people said, and how far the model agrees with them."""
    systems, ids, written_POCN = read_people(flags.out / PEOPLE, flags.collect)
    people = standing_of(systems, written_POCN)
    model = read_rankings(flags.out / RANKINGS, systems)
    both = [place for place, post in enumerate(ids) if post in model]
    results: dict[str, Any] = {"people": people.as_json(), "posts_of_both": len(both), "tau_b": None}
    _print("people: " + "\n".join(people.lines()))
    if both:
        model_PCN = np.stack([model[ids[place]] for place in both])
        taus = tau_b(averaged(written_POCN[both]).mean(axis=1), model_PCN)
        results["tau_b"] = {name: None if np.isnan(value) else value for name, value in taus.items()}
        told = ", ".join(f"{name} {'–' if np.isnan(value) else format(value, '.2f')}" for name, value in taus.items())
        _print(f"Kendall's tau-b with the model on {len(both):,} of {len(ids):,} posts: {told}")
    else:
        print("no ranks of a model to compare with: give the same --out to a judge")
    write_json(flags.out / PEOPLE / RESULTS, results)
    _print(f"written: {flags.out / PEOPLE / RESULTS}")
    return results


def _lines(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(file, for_utf8("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)))


def _print(text: str) -> None:
    """Prints what holds names of systems, which are of files."""
    print(for_terminal(text, lines=True))


if __name__ == "__main__":
    sys.exit(main())
