"""The body of `teach`: asks a teacher about posts, stores its answers, and writes chains or keyphrases."""

import argparse
import re
from collections.abc import Sequence

from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.files import CMKP_ENDING, read_posts
from mmkp_jax.teacher.card import card_file, write_card
from mmkp_jax.teacher.chains import Gates
from mmkp_jax.teacher.flags import endpoint_of, prices_of, records_from_flags
from mmkp_jax.teacher.session import ask_questions, print_forecast
from mmkp_jax.teacher.teaching import (
    FIELDS,
    Job,
    TeachingOutcome,
    answer_rejector,
    default_template,
    rejects_file,
    write_results,
)
from mmkp_jax.teacher.templates import read_template

TEST = re.compile(r"(?<![a-z])test", re.IGNORECASE)
TEST_FOLDER = re.compile(r"(?:.*[^a-z])?test(?:set)?", re.IGNORECASE)
"""Names of test splits, and of folders with test posts."""
TEST_ID = "test-"
"""Prefix of the ids of posts in CMKP's test split."""


def teach(flags: argparse.Namespace) -> TeachingOutcome | None:
    """Runs `teach` by its flags; returns the outcome, or None for a dry run."""
    job, posts = _job(flags), read_posts(flags.posts) if flags.posts else []
    records = records_from_flags(flags, posts)
    if len(records):
        check_split(flags, [post.id for post in posts] or [records[0].id])
    questions = len(records), job.question_of(records), job.endpoint
    if flags.dry_run:
        print_forecast(flags, *questions)
        return None
    batch_size = flags.batch_size if flags.batch else None
    with ask_questions(flags, *questions, reject=answer_rejector(job, records), batch_size=batch_size) as (run, store):
        outcome = write_results(flags.out, job, records, run, store, posts)
    write_card(flags.out, job, flags.posts.name if flags.posts else f"{flags.split} of {flags.data.name}", outcome)
    print(
        f"{outcome.posts:,} posts = {outcome.kept:,} kept + {outcome.posts - outcome.kept:,} left out"
        + "".join(f"; {gate} {count:,}" for gate, count in outcome.left_out.most_common())
    )
    print(f"kept of {outcome.answers:,} complete answers: {outcome.acceptance:.2%}")
    print("\n".join(run.lines(prices_of(flags))))
    print(f"written: {flags.out}, {rejects_file(flags.out).name}, {card_file(flags.out).name}")
    return outcome


def check_split(flags: argparse.Namespace, ids: Sequence[str]) -> None:
    """Refuses a test split without --allow_split; recognized by its name, its folder's name, or its posts' ids."""
    folder = flags.posts.absolute().parent.name if flags.posts else ""
    split = flags.split or flags.posts.name.removesuffix(".jsonl").removesuffix(CMKP_ENDING)
    found = [split] * bool(TEST.search(split)) + [folder] * bool(TEST_FOLDER.fullmatch(folder))
    found += ["test"] * any(each.startswith(TEST_ID) for each in ids)
    if flags.task == "chains" and found and flags.allow_split not in found:
        where = "" if found[0] == split else f", by {'its folder' if found[0] == folder else 'the ids of its posts'}"
        what = f"{found[0]!r} is a test split{where}: chains made from its keyphrases would leak them into training"
        raise InputError(what, "teach", f"name another split, or allow it with --allow_split={found[0]}")


def _job(flags: argparse.Namespace) -> Job:
    template = default_template(flags.task, flags.answer_hidden)
    if flags.template:
        template = read_template(flags.template)
        template.check(["text"], FIELDS, str(flags.template))
        if flags.answer_hidden and "keyphrases" in template.fields:
            what = "the template shows the keyphrases, which --answer_hidden hides"
            raise InputError(what, str(flags.template), "remove {keyphrases} from it")
        if not flags.answer_hidden:
            template.check(["keyphrases"], FIELDS, str(flags.template))
    gates = Gates(flags.min_words, flags.max_words, flags.mentions, flags.match if flags.answer_hidden else None)
    return Job(endpoint_of(flags), template, flags.task, gates, flags.image_edge)
