"""Systems' predictions ranked by a model or by people: `python -m mmkp_jax.judge --posts=FILE --predictions=A,B …`.

The judge is any OpenAI-compatible endpoint; every answer is written to --store before it is used, and the same
command resumes after a stop; the exit status is 3 where --max_cost stopped the command, and 4 without any readable
answer. With --people, it writes pages for human raters instead; with --collect, it reads what they
saved, and compares it with the model's ranks in --out.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkp_jax.evaluation.files import read_posts
from mmkp_jax.judging.judge import ANSWERS, PEOPLE, compare_with_people, judge, print_names, systems_of
from mmkp_jax.judging.people import KEY, sample_posts
from mmkp_jax.judging.ranking import (
    FIELDS,
    LABELS,
    balanced_orders,
)
from mmkp_jax.runtime.cli import Parser, file_list, status_of
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.teacher.flags import (
    add_endpoint_flags,
    add_post_flags,
    check_bounds,
    check_endpoint_flags,
    check_post_flags,
    records_from_flags,
    refuse_flags_except,
)
from mmkp_jax.teacher.session import NOTHING, STOPPED
from mmkp_jax.teacher.templates import field_list

MAX_TOKENS = 512
PAIRS = 100
RATERS = 4
"""Defaults as in the paper."""

PEOPLE_FLAGS = ("data", "split", "posts", "images", "predictions", "out", "people", "raters", "image_edge")
COLLECT_FLAGS = ("out", "collect")
"""Flags that are valid with --people, and with --collect."""


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("judge", __doc__)
    add_post_flags(flags)
    add = flags.add_argument
    add("--predictions", type=file_list, metavar="A,B,…", help="predictions of the systems for these posts")
    add("--out", type=Path, metavar="DIR", help="required: folder for ranks, results and answers")
    add("--orders", type=int, default=2, metavar="N", help="balanced orders in which each post is judged (%(default)s)")
    add(
        "--pairs",
        type=int,
        default=PAIRS,
        metavar="N",
        help="pairs of lists compared alone, in both orders (%(default)s)",
    )
    about = f"a prompt: system message, a line ---, user message; its fields: {field_list(FIELDS)}"
    add("--template", type=Path, metavar="FILE", help=about)
    add("--people", type=int, metavar="N", help="write pages with N posts for people instead of asking a model")
    add("--raters", type=int, default=RATERS, metavar="N", help="pages of --people, one per rater (%(default)s)")
    add(
        "--collect",
        type=file_list,
        metavar="A,B,…",
        help="files that raters' pages saved: compare them with the model's ranks",
    )
    add_endpoint_flags(flags, MAX_TOKENS)
    return flags


def run(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Runs the command; returns the content of `results.json`, or None where nothing was judged."""
    flags = _parse(arguments)
    if flags.collect:
        return compare_with_people(flags)
    posts = read_posts(flags.posts or flags.data, flags.split or "")
    records = records_from_flags(flags, posts)
    systems = systems_of(flags.predictions, posts)
    if left := len(posts) - len(records):  # they are the last ones
        print(f"{left:,} of {len(posts):,} posts could not be used when the dataset was prepared, and are not judged")
    if flags.people:
        from mmkp_jax.pages.people.sheets import write_sheets

        chosen = sample_posts(len(records), min(flags.people, len(records)))
        files = write_sheets(flags.out / PEOPLE, records, systems, chosen, flags.raters, flags.image_edge)
        print_names(f"written: {', '.join(map(str, files))}; keep {KEY} from the raters")
        return None
    return judge(flags, records, systems)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0; 2 after one line on an error; 3 when --max_cost stopped the run; 4 after a line on
    why no answer can be read; 130 when interrupted, after a line on how to continue.
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

    return status_of(
        status, arguments, interrupted="stopped; every answer is in --store, and the same command continues"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    flags = parser()
    parsed = flags.parse(arguments)
    if not parsed.out:
        flags.error("--out=DIR is not given")
    if parsed.collect:
        refuse_flags_except(COLLECT_FLAGS, parsed, flags, "does not go with --collect")
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
        refuse_flags_except(PEOPLE_FLAGS, parsed, flags, "does not go with --people")
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


if __name__ == "__main__":
    sys.exit(main())
