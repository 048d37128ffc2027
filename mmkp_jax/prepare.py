"""Raw posts and images → a dataset to train on: `python -m mmkp_jax.prepare --dataset=mmkp --raw=DIR --images=DIR …`.

The dataset appears in `--out` atomically. The same command resumes a killed one, and leaves an undamaged dataset of the
same posts and images unchanged.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmkp_jax.data.resample import RESAMPLING
from mmkp_jax.errors import nearest
from mmkp_jax.runtime.cli import Parser, status_of
from mmkp_jax.runtime.interrupts import while_loading

if TYPE_CHECKING:
    from mmkp_jax.data.records import SplitCounts

DATASETS = {
    "mmkp": "the CMKP release, {train,valid,test}_src.txt",
    "mmkp_v2": "the same, resampled",
    "keyphrase_posts": "JSON Lines, NAME.jsonl, or NAME-00000-of-00004.jsonl and its like, also of LLaVA, "
    "LLaMA-Factory (sharegpt) and OpenAI; .json arrays; .gz",
}


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
        help="drop: list it and continue; error: stop at the first, lines before images",
    )
    add("--seed", type=int, metavar="N", help="mmkp_v2: seed of the resampling (0)")
    add("--target_overlap", type=float, metavar="F", help="mmkp_v2: share of test keyphrases known from train (0.4528)")
    add("--beam", metavar="OPTIONS", help="let Apache Beam write it, with these of its options, in one string")
    return flags


def run(arguments: Sequence[str] | None = None) -> "dict[str, SplitCounts]":
    """Runs the command, and returns what became of the posts of each split."""
    flags = _parse(arguments)
    with while_loading():  # tensorflow_datasets, imported only once the flags are checked
        from mmkp_jax.data.prepare import prepare

    return prepare(flags)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line on what was wrong; 130 when interrupted, after a line on how to resume."""
    return status_of(run, arguments, interrupted="stopped; the same command resumes")


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
        flags.error("--out is the folder of --raw: give another, files in it would be read as posts")
    return parsed


if __name__ == "__main__":
    sys.exit(main())
