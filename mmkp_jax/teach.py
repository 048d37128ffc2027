"""Posts → chains of thought by a teacher: `python -m mmkp_jax.teach --data=DIR --split=NAME --base_url=URL …`.

The teacher is any OpenAI-compatible endpoint. Every answer is on disk, in --store, before anything is made of it: the
same command goes on where a stopped or killed one stood, and pays for no answer twice. The chains in --out are ready
for `prepare --cot`. With --task=keyphrases, raw hashtags become keyphrases instead, and --out holds posts.
"""

import argparse
import contextlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mmkp_jax.commands import Parser, status_of
from mmkp_jax.data.posts import Post
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.files import CMKP_ENDING, read_posts
from mmkp_jax.teacher.asking import Run, ask_all
from mmkp_jax.teacher.batch import BATCH_SIZE, ask_in_batches
from mmkp_jax.teacher.card import card_file, write_card
from mmkp_jax.teacher.chains import Gates
from mmkp_jax.teacher.cost import money
from mmkp_jax.teacher.flags import (
    Progress,
    add_endpoint_flags,
    check_endpoint_flags,
    endpoint_of,
    limits_of,
    prices_of,
)
from mmkp_jax.teacher.forecast import forecast
from mmkp_jax.teacher.questions import PostRecords, Records
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.teaching import FIELDS, Job, Outcome, default_template, rejects_file, write_results
from mmkp_jax.teacher.templates import read_template

TEST = re.compile(r"(?<![a-z])test", re.IGNORECASE)
"""Names of splits that no training may see."""

MAX_TOKENS = 512
"""Of an answer: the paper's models write 157 words."""


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("teach", __doc__)
    add = flags.add_argument
    add("--data", type=Path, metavar="DIR", help="a prepared dataset")
    add("--split", metavar="NAME", help="of --data: which of its splits")
    add("--posts", type=Path, metavar="FILE", help=f"or JSON Lines (.jsonl), or CMKP ({{split}}{CMKP_ENDING})")
    add("--images", type=Path, metavar="DIR", help="of --posts: the folder that their images are relative to")
    add("--out", type=Path, metavar="FILE", help="required: JSON Lines; beside it come its rejects and its data card")
    add("--allow_split", metavar="NAME", help="a test split, by its name: chains for it leak its answers into training")
    add("--task", choices=("chains", "keyphrases"), default="chains", help="what is asked for (chains)")
    add("--template", type=Path, metavar="FILE", help="a prompt: system line, a line ---, user's turn; with {text} …")
    add("--answer_hidden", action="store_true", help="do not show the keyphrases; keep chains whose answer matches")
    add("--match", choices=("exact", "all", "any"), default="exact", help="how it must match the keyphrases (exact)")
    add("--min_words", type=int, default=1, metavar="N", help="of a chain (1)")
    add("--max_words", type=int, metavar="N", help="of a chain")
    add("--mentions", choices=("any", "all"), help="keep chains that name any, or all, of the keyphrases")
    add("--batch", action="store_true", help="by the Batch API: within a day, at its own prices")
    add("--batch_size", type=int, default=BATCH_SIZE, metavar="N", help="of --batch: most calls in one (%(default)s)")
    add_endpoint_flags(flags, MAX_TOKENS)
    return flags


def run(arguments: Sequence[str] | None = None) -> Outcome | None:
    """Teaches as the flags say; what became of the posts, or None where nothing was asked for."""
    flags = _parse(arguments)
    job, prices = _job(flags), prices_of(flags)
    records, posts, source = _records(flags)
    question_of = job.question_of(records)
    store_file = flags.store or flags.out.with_name(f"{flags.out.stem}.answers.jsonl")
    if flags.dry_run:
        with Store(store_file) if store_file.exists() else contextlib.nullcontext(()) as known:
            print(forecast(len(records), question_of, known, job.endpoint.answer_tokens, prices).text())
        return None
    job.endpoint.key()  # before anything is opened
    _check_folder(flags.out, store_file)
    with Store(store_file) as store, Progress(len(records), prices) as progress:
        options = {"prices": prices, "max_cost": flags.max_cost, "progress": progress}
        if flags.batch:
            run = ask_in_batches(len(records), question_of, job.endpoint, store, most=flags.batch_size, **options)
        else:
            options |= {"limits": limits_of(flags), "retry_refused": flags.retry_refused}
            run = ask_all(len(records), question_of, job.endpoint, store, **options)
        outcome = write_results(flags.out, job, records, run, store, posts)
    write_card(flags.out, job, source, outcome)
    _report(run, outcome, flags)
    return outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line on what was wrong; 130 when interrupted, after a line on how to go on."""
    return status_of(run, arguments, interrupted="stopped; every answer is in --store, and the same command goes on")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    flags = parser()
    parsed = flags.parse(arguments)
    if (parsed.data is None) == (parsed.posts is None):
        flags.error("give one of --data and --posts")
    if (parsed.data is None) != (parsed.split is None):
        flags.error("--data=DIR and --split=NAME go together")
    if parsed.images and not parsed.posts:
        flags.error("--images goes with --posts")
    if not parsed.out:
        flags.error("--out=FILE is not given")
    check_endpoint_flags(parsed, flags)
    if parsed.task == "keyphrases" and (parsed.data or parsed.answer_hidden):
        flags.error("--task=keyphrases takes raw --posts, and shows their hashtags")
    if parsed.min_words < 1 or (parsed.max_words or parsed.min_words) < parsed.min_words:
        flags.error("--min_words must be 1 or more, and --max_words no less than it")
    if not 1 <= parsed.batch_size <= BATCH_SIZE:
        flags.error(f"--batch_size={parsed.batch_size} is not from 1 to {BATCH_SIZE:,}")
    split = parsed.split or parsed.posts.name.removesuffix(".jsonl").removesuffix(CMKP_ENDING)
    if parsed.task == "chains" and TEST.search(split) and parsed.allow_split != split:
        what = f"{split!r} is a test split: chains made from its keyphrases would leak them into training"
        raise InputError(what, "teach", f"name another split, or allow it with --allow_split={split}")
    return parsed


def _job(flags: argparse.Namespace) -> Job:
    template = default_template(flags.task, flags.answer_hidden)
    if flags.template:
        template = read_template(flags.template)
        template.check(["text"], FIELDS, str(flags.template))
        if flags.answer_hidden and "keyphrases" in template.fields:
            what = "the template shows the keyphrases, which --answer_hidden hides"
            raise InputError(what, str(flags.template), "take {keyphrases} out of it")
        if not flags.answer_hidden:
            template.check(["keyphrases"], FIELDS, str(flags.template))
    gates = Gates(flags.min_words, flags.max_words, flags.mentions, flags.match if flags.answer_hidden else None)
    return Job(endpoint_of(flags), template, flags.task, gates, flags.image_edge)


def _records(flags: argparse.Namespace) -> tuple[Records, list[Post] | None, str]:
    """The posts as records, those of a file as such, and where they came from."""
    if flags.posts:
        posts = read_posts(flags.posts)
        return PostRecords(posts, flags.images), posts, str(flags.posts)
    from mmkp_jax.data.records import open_split  # here, as it takes a second to import

    return open_split(flags.data, flags.split), None, f"{flags.split} of {flags.data}"


def _check_folder(*files: Path) -> None:
    for file in files:
        if not file.parent.is_dir():
            raise InputError("there is no such folder", str(file.parent), "make it, or name another")


def _report(run: Run, outcome: Outcome, flags: argparse.Namespace) -> None:
    print(
        f"{outcome.posts:,} posts = {outcome.kept:,} kept + {outcome.posts - outcome.kept:,} left out"
        + "".join(f"; {gate} {count:,}" for gate, count in outcome.left_out.most_common())
    )
    print(f"kept of {outcome.answers:,} whole answers: {outcome.acceptance:.2%}")
    print(f"asked now: {run.asked:,}; spent in all: {money(run.spent if flags.price_in is not None else None)}")
    if run.lost:
        print(f"calls that broke off, which the endpoint may have charged too: {run.lost:,}")
    if run.stopped:
        print(f"stopped: {run.stopped}; the same command goes on with a higher one")
    elif run.unavailable:
        print(f"the endpoint gave no answer to {len(run.unavailable):,} posts; the same command asks again")
    print(f"written: {flags.out}, {rejects_file(flags.out).name}, {card_file(flags.out).name}")


if __name__ == "__main__":
    sys.exit(main())
