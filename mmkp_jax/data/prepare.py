"""The body of `prepare`: from folders of raw posts to a dataset, and a line on what became of every post."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from mmkp_jax.data.builders import MmkpV2Config
from mmkp_jax.data.chain_files import COT_REJECTS, Chains
from mmkp_jax.data.posts import REJECTS
from mmkp_jax.data.records import SplitCounts, dataset_folders, write_dataset
from mmkp_jax.data.resample import RESAMPLING
from mmkp_jax.data.sources import keyphrase_posts, mmkp, mmkp_v2
from mmkp_jax.data.statistics import reject_reasons
from mmkp_jax.runtime.escape import for_terminal

MANY = 0.02
"""Share of a split's posts above which its rejects cause a warning."""
WIDEST = 300
"""Longest printed line that may quote a post, in characters."""


def prepare(flags: argparse.Namespace) -> dict[str, SplitCounts]:
    """Prepares as the flags say, and prints what became of every post."""
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
        extra_files=source.extra_files,
        beam=flags.beam,
        progress=True,
    )
    for note in source.taken.lines():
        print(for_terminal(note))
    for split, count in counts.items():
        print(f"{split}: {count.posts:,} posts = {count.records:,} records + {count.rejects:,} rejects")
    _print_reasons(flags.out, counts)
    if there:
        print("the dataset exists already, from the same posts and images, and is left unchanged")
    elif chains:
        print(for_terminal(chains.summary()))
        if unused := chains.unmatched + len(chains.rejects):
            _warn_of_chains(flags.out, chains.joined, unused)
    print(for_terminal(f"dataset: {dataset_folders(flags.out)[0]}; rejects: {flags.out / REJECTS}"))
    return counts


def _print_reasons(out: Path, counts: Mapping[str, SplitCounts]) -> None:
    """Prints why rows were rejected, the commonest reason first, and a warning where many were."""
    if not any(count.rejects for count in counts.values()):
        return
    for (split, reason), kind in sorted(reject_reasons(out).items(), key=lambda each: -each[1].count):
        print(for_terminal(f"  {split}: {kind.count:,} rejected: {reason}; for example {kind.examples[0]}"[:WIDEST]))
    for split, count in counts.items():
        if count.rejects > MANY * count.posts:
            share = f"{count.rejects:,} of {count.posts:,} posts of {split} ({count.rejects / count.posts:.0%})"
            print(for_terminal(f"warning: {share} are rejects: see {out / REJECTS}"), file=sys.stderr)


def _warn_of_chains(out: Path, joined: int, unused: int) -> None:
    """Prints a warning where many chains of thought are joined to no post."""
    if unused > MANY * (joined + unused):
        share = f"{unused:,} of {joined + unused:,} chains of thought"
        line = f"warning: {share} ({unused / (joined + unused):.0%}) are joined to no post: see {out / COT_REJECTS}"
        print(for_terminal(line), file=sys.stderr)
