"""Raw posts and images → a dataset to train on: `python -m mmkp_jax.prepare --dataset=mmkp --raw=DIR --images=DIR …`.

The dataset appears in `--out` whole or not at all. The same command goes on where a killed one stood, and leaves a
dataset of the same posts and images as it is, if it is undamaged.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmkp_jax.data.builders import MmkpV2Config
from mmkp_jax.data.chain_files import COT_REJECTS, Chains
from mmkp_jax.data.posts import REJECTS
from mmkp_jax.data.records import Counts, dataset_folders, write_dataset
from mmkp_jax.data.sources import keyphrase_posts, mmkp, mmkp_v2
from mmkp_jax.data.statistics import rejected
from mmkp_jax.errors import nearest
from mmkp_jax.runtime.cli import Parser, status_of
from mmkp_jax.runtime.escape import for_terminal

DATASETS = {
    "mmkp": "the CMKP release, {train,valid,test}_src.txt",
    "mmkp_v2": "the same, resampled",
    "keyphrase_posts": "JSON Lines, NAME.jsonl, or NAME-00000-of-00004.jsonl and its like, also of LLaVA, "
    "LLaMA-Factory (sharegpt) and OpenAI; .json arrays; .gz",
}
RESAMPLING = ("seed", "target_overlap")
"""Flags for mmkp_v2 alone, and its builder's config."""

MANY = 0.02
"""Share of a split's posts above which its rejects are warned of."""
WIDEST = 300
"""Characters of a line that may quote a post."""


def parser() -> Parser:
    """The command's flags."""
    datasets = "; ".join(f"{name}: {what}" for name, what in DATASETS.items())
    flags = Parser("prepare", __doc__)
    add = flags.add_argument
    add("--dataset", metavar="NAME", help=f"required. {datasets}")
    add("--raw", type=Path, metavar="DIR", help="required: the folder of the posts' files")
    add("--images", type=Path, metavar="DIR", help="required: the folder that posts' images are relative to")
    add("--out", type=Path, metavar="DIR", help="required: where the dataset is written")
    add("--cot", type=Path, metavar="FILE", help='chains of thought, JSON Lines of {"id", "cot"}')
    add(
        "--on_bad_row",
        choices=("drop", "error"),
        default="drop",
        help="drop: list it and go on; error: stop at the first, lines before images",
    )
    add("--seed", type=int, metavar="N", help="mmkp_v2: of the resampling (0)")
    add("--target_overlap", type=float, metavar="F", help="mmkp_v2: share of test keyphrases known from train (0.4528)")
    add("--beam", metavar="OPTIONS", help="let Apache Beam write it, with these of its options, in one string")
    return flags


def run(arguments: Sequence[str] | None = None) -> dict[str, Counts]:
    """Prepares as the flags say, and prints what became of every post."""
    flags = _parse(arguments)
    source = {"keyphrase_posts": keyphrase_posts}.get(flags.dataset, mmkp)(flags.raw)
    chains = Chains(flags.cot) if flags.cot else None
    if chains:
        source = chains.join(source, on_bad_row=flags.on_bad_row)
    config = None
    if flags.dataset == "mmkp_v2":
        config = MmkpV2Config(**{each: getattr(flags, each) for each in RESAMPLING if getattr(flags, each) is not None})
        source = mmkp_v2(source, config.target_overlap, config.seed)
    print(*source.notes, sep="\n", end="\n" * bool(source.notes))
    there = bool(dataset_folders(flags.out))
    counts = write_dataset(
        flags.out,
        source.splits,
        flags.images,
        on_bad_row=flags.on_bad_row,
        name=flags.dataset,
        config=config,
        beside=source.beside,
        beam=flags.beam,
        progress=True,
    )
    for note in source.taken.lines():
        print(for_terminal(note))
    for split, count in counts.items():
        print(f"{split}: {count.posts:,} posts = {count.records:,} records + {count.rejects:,} rejects")
    _print_reasons(flags.out, counts)
    if there:
        print("it is there already, from the same posts and images, and left as it is")
    elif chains:
        print(for_terminal(chains.summary()))
        if unused := chains.unmatched + len(chains.rejects):
            _warn_of_chains(flags.out, chains.joined, unused)
    print(for_terminal(f"dataset: {dataset_folders(flags.out)[0]}; rejects: {flags.out / REJECTS}"))
    return counts


def _print_reasons(out: Path, counts: Mapping[str, Counts]) -> None:
    """Prints why rows are rejects, the commonest reason first, and a warning where they are many."""
    if not any(count.rejects for count in counts.values()):
        return
    for (split, reason), kind in sorted(rejected(out).items(), key=lambda each: -each[1].count):
        print(for_terminal(f"  {split}: {kind.count:,} rejected: {reason}; for example {kind.examples[0]}"[:WIDEST]))
    for split, count in counts.items():
        if count.rejects > MANY * count.posts:
            share = f"{count.rejects:,} of {count.posts:,} posts of {split} ({count.rejects / count.posts:.0%})"
            print(for_terminal(f"warning: {share} are rejects: see {out / REJECTS}"), file=sys.stderr)


def _warn_of_chains(out: Path, joined: int, unused: int) -> None:
    """Prints a warning where many lines of chains of thought gave no post its chain."""
    if unused > MANY * (joined + unused):
        share = f"{unused:,} of {joined + unused:,} chains of thought"
        line = f"warning: {share} ({unused / (joined + unused):.0%}) are joined to no post: see {out / COT_REJECTS}"
        print(for_terminal(line), file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line on what was wrong; 130 when interrupted, after a line on how to go on."""
    return status_of(run, arguments, interrupted="stopped; the same command goes on")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    flags = parser()
    parsed = flags.parse(arguments)
    for name in ("dataset", "raw", "images", "out"):
        if not getattr(parsed, name):
            flags.error(f"--{name} is not given")
    if parsed.dataset not in DATASETS:
        flags.error(f"unknown dataset {parsed.dataset!r}{nearest(parsed.dataset, DATASETS)}")
    for name in RESAMPLING:
        if getattr(parsed, name) is not None and parsed.dataset != "mmkp_v2":
            flags.error(f"--{name} is for mmkp_v2 alone")
    if parsed.out.resolve() == parsed.raw.resolve():
        flags.error("--out is the folder of --raw: give another, as files in it would be taken for posts")
    return parsed


if __name__ == "__main__":
    sys.exit(main())
