"""Scores predictions by CMKP's metric and by group: `python -m mmkp_jax.score --predictions=FILE --posts=FILE`.

With `--compare=FILE`, also the difference from other predictions of the same posts, with its confidence interval; with
`--direct=FILE` and `--think=FILE`, also how well the model chooses between the two.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.embedding import load_embedding
from mmkp_jax.evaluation.files import read_aligned, read_posts, read_train_keyphrases
from mmkp_jax.evaluation.metric import Scores
from mmkp_jax.evaluation.modes import measure_modes, modes_as_json
from mmkp_jax.evaluation.outputs import READINGS
from mmkp_jax.evaluation.significance import RESAMPLES
from mmkp_jax.evaluation.systems import System, compare_systems, read_system
from mmkp_jax.evaluation.table import overview
from mmkp_jax.evaluation.tokenised import HiddenKeyphrases, hidden_keyphrases
from mmkp_jax.pages.modes import modes_table
from mmkp_jax.pages.tables import as_text, plain
from mmkp_jax.runtime.atomic import write_json
from mmkp_jax.runtime.cli import Parser, file_list, status_of

EPILOG = (
    "A dataset is a folder that prepare wrote, DIR or DIR:SPLIT; without a split, test is read, or train for --train. "
    "--compare may be given again, for each system that --predictions is compared with. "
    "Files separated by commas are runs of one system with different seeds."
)
FEWEST_RESAMPLES = 100  # fewer give no 95% interval
MOST_RESAMPLES = 1_000_000  # each takes some kilobytes, and no decision needs more


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("score", __doc__, epilog=EPILOG)
    add = flags.add_argument
    add("--predictions", type=file_list, metavar="FILE", help="required: JSON Lines by id (.jsonl), or one line a post")
    add("--posts", type=Path, metavar="FILE", help="required: JSON Lines (.jsonl), CMKP ({split}_src.txt) or a dataset")
    add("--train", type=Path, metavar="FILE", help="training posts, or their keyphrases one a line: seen and unseen")
    add("--ocr", type=Path, metavar="FILE", help="words recognised in each image, one line a post; they count as text")
    add("--compare", type=file_list, metavar="FILE", action="append", default=[], help="predictions to compare with")
    about = "its answers with --mode"
    add(
        "--direct", type=file_list, metavar="FILE", default=[], help=f"{about}=direct, for how well it chooses its mode"
    )
    add("--think", type=file_list, metavar="FILE", default=[], help=f"{about}=think, for the same; needs --direct")
    add(
        "--resamples",
        type=int,
        metavar="N",
        default=RESAMPLES,
        help="for intervals and p; 0 for neither",
    )
    about = "how lists in outputs are split: strict at ; alone, lenient also at numbers, bullets, lines and commas"
    add("--reading", choices=READINGS, default=READINGS[0], help=f"{about} (%(default)s)")
    about = "compare words without punctuation and hash signs, for texts that are not tokenised as CMKP's are"
    add("--tokenised", action="store_true", help=about)
    about = "folder of an embedding model (sentence-transformers), for semantic F1; needs mmkp_jax[semantic]"
    add("--embeddings", type=Path, metavar="DIR", help=about)
    add("--json", type=Path, metavar="FILE", help="write the scores here, as fractions")
    return flags


def run(arguments: Sequence[str] | None = None) -> Scores:
    """Scores predictions as the flags say, and prints and writes the scores."""
    flags = _parse(arguments)
    embed = load_embedding(flags.embeddings) if flags.embeddings else None
    posts = read_posts(flags.posts)
    train = read_train_keyphrases(flags.train) if flags.train else None
    ocr = read_aligned(flags.ocr, len(posts)) if flags.ocr else None
    named = (flags.predictions, *flags.compare)

    def system_of(files: Sequence[Path]) -> System:
        return read_system(files, posts, train, ocr, flags.reading, tokenised=flags.tokenised, embed=embed)

    a, *others = map(system_of, named)
    comparison = compare_systems(a, others, flags.resamples)
    modes = None
    if flags.direct:
        by_mode = {"auto": a, "direct": system_of(flags.direct), "think": system_of(flags.think)}
        modes = measure_modes(by_mode, flags.resamples)
    if flags.json:
        more = {"reading": flags.reading} if flags.reading != READINGS[0] else {}
        more |= {"tokenised": True} if flags.tokenised else {}
        more |= {"forms": a.forms} if a.forms else {}
        more |= {"answers": a.mean_answers} if a.mean_answers else {}
        more |= {"semantic": a.mean_semantics} if a.mean_semantics else {}
        more |= {} if comparison.is_one_run else {"comparison": comparison.as_json()}
        more |= {} if modes is None else {"modes": modes_as_json(modes)}
        write_json(flags.json, {**a.mean, **more})
    print(overview(comparison))
    if modes is not None:
        print(f"\n{as_text(modes_table(modes))}")
    print(_about_words(hidden_keyphrases(posts), flags.tokenised), end="")
    return a.mean


def _about_words(hidden: HiddenKeyphrases, tokenised: bool) -> str:
    """A line on keyphrases that punctuation hides in the texts; empty if there are none to report."""
    some = f"{hidden.keyphrases:,} of {hidden.total:,} keyphrases"
    if tokenised:
        return f"tokenised: {some} are present by words alone; CMKP's protocol counts them as absent\n"
    if not hidden.is_common:
        return ""
    keyphrase, text = (plain(each, 40) for each in hidden.example)
    example = f"{keyphrase!r} in {text!r}"
    return f"{some} are in their texts, but count as absent, as with {example}: --tokenised compares words alone\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after a one-line error."""
    return status_of(run, arguments)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    flags = parser()
    parsed = flags.parse(arguments)
    for name in ("predictions", "posts"):
        if not getattr(parsed, name):
            flags.error(f"--{name}=FILE is not given")
    if bool(parsed.direct) != bool(parsed.think):
        flags.error("give both --direct and --think, or neither")
    if parsed.resamples < FEWEST_RESAMPLES and (parsed.resamples or parsed.compare):
        flags.error(f"--resamples={parsed.resamples} is less than {FEWEST_RESAMPLES}")
    if parsed.resamples > MOST_RESAMPLES:
        flags.error(f"--resamples={parsed.resamples} is more than {MOST_RESAMPLES:,}")
    if parsed.json and not parsed.json.parent.is_dir():  # reported before the work, not after it
        raise InputError("there is no such folder", str(parsed.json.parent), "make it, or name another --json")
    return parsed


if __name__ == "__main__":
    sys.exit(main())
