"""Chains of thought for posts, by a teacher: `python -m mmkp_jax.teach --data=DIR --split=NAME --base_url=URL …`.

The teacher is any OpenAI-compatible endpoint. Every answer is written to --store before it is used: the same
command resumes after a stop or a kill, and pays for no answer twice. The chains in --out are ready
for `prepare --cot` once the exit status is 0; it is 3 where --max_cost stopped the command, and --out is not complete,
and 4 where nothing was kept. With --task=keyphrases, raw hashtags become keyphrases instead, and --out holds posts.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmkp_jax.runtime.cli import Parser, status_of
from mmkp_jax.teacher.endpoint import BATCH_SIZE
from mmkp_jax.teacher.flags import (
    add_endpoint_flags,
    add_post_flags,
    check_endpoint_flags,
    check_post_flags,
)
from mmkp_jax.teacher.session import NOTHING, STOPPED
from mmkp_jax.teacher.store import answers_file
from mmkp_jax.teacher.teach import check_split, teach
from mmkp_jax.teacher.teaching import FIELDS, TeachingOutcome
from mmkp_jax.teacher.templates import field_list

CHAIN_FLAGS = ("min_words", "max_words", "mentions", "match", "allow_split")
"""Flags that only --task=chains has."""

MAX_TOKENS = 512
"""Default of --max_tokens; the paper's models write 157 words."""


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("teach", __doc__)
    add_post_flags(flags)
    add = flags.add_argument
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="required: JSON Lines; its rejects and its data card are written next to it",
    )
    add("--allow_split", metavar="NAME", help="name of a test split to allow: its chains leak answers into training")
    add("--task", choices=("chains", "keyphrases"), default="chains", help="what to ask for (chains)")
    about = f"a prompt: system message, a line ---, user message; its fields: {field_list(FIELDS)}"
    add("--template", type=Path, metavar="FILE", help=about)
    add("--answer_hidden", action="store_true", help="do not show the keyphrases; keep chains whose answer matches")
    add(
        "--match",
        choices=("exact", "all", "any"),
        default="exact",
        help="how the answer must match the keyphrases (exact)",
    )
    add("--min_words", type=int, default=1, metavar="N", help="fewest words of a chain (1)")
    add("--max_words", type=int, metavar="N", help="most words of a chain")
    add("--mentions", choices=("any", "all"), help="keep chains that name any, or all, of the keyphrases")
    add("--batch", action="store_true", help="use the Batch API: answers within a day, at its own prices")
    add(
        "--batch_size", type=int, default=BATCH_SIZE, metavar="N", help="most calls in a batch of --batch (%(default)s)"
    )
    add_endpoint_flags(flags, MAX_TOKENS)
    return flags


def run(arguments: Sequence[str] | None = None) -> TeachingOutcome | None:
    """Runs the command; returns the outcome, or None for a dry run."""
    return teach(_parse(arguments))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0; 2 after one line on an error; 3 when --max_cost stopped the run; 4 after a line on
    why nothing was kept; 130 when interrupted, after a line on how to continue.
    """

    def status(arguments: Sequence[str] | None) -> int:
        outcome = run(arguments)
        if outcome and outcome.stopped:
            return STOPPED
        if outcome and (nothing := outcome.why_nothing()):
            print(nothing, file=sys.stderr)
            return NOTHING
        return 0

    return status_of(
        status, arguments, interrupted="stopped; every answer is in --store, and the same command continues"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    flags = parser()
    parsed = flags.parse(arguments)
    check_post_flags(parsed, flags)
    if not parsed.out:
        flags.error("--out=FILE is not given")
    check_endpoint_flags(parsed, flags)
    parsed.store = parsed.store or answers_file(parsed.out)
    if parsed.task == "keyphrases" and (parsed.data or parsed.answer_hidden):
        flags.error("--task=keyphrases takes raw --posts, and shows their hashtags")
    if parsed.task == "keyphrases":
        for name in CHAIN_FLAGS:
            if getattr(parsed, name) != flags.get_default(name):
                flags.error(f"--{name} goes with --task=chains")
    if parsed.match != flags.get_default("match") and not parsed.answer_hidden:
        flags.error("--match goes with --answer_hidden")
    if parsed.min_words < 1 or (parsed.max_words or parsed.min_words) < parsed.min_words:
        flags.error("--min_words must be 1 or more, and --max_words no less than it")
    if not 1 <= parsed.batch_size <= BATCH_SIZE:
        flags.error(f"--batch_size={parsed.batch_size} is not from 1 to {BATCH_SIZE:,}")
    if parsed.batch and parsed.retry_refused:
        flags.error("--retry_refused asks one by one, without --batch")
    check_split(parsed, [])
    return parsed


if __name__ == "__main__":
    sys.exit(main())
