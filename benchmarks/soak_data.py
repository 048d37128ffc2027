"""Whether memory grows with the number of posts: prepare, index, plan and describe datasets of two sizes.

    python -m benchmarks.soak_data [--posts=36000,360000] [--workers=N] [--keep=DIR]

Posts of MMKP-360k's shape (4.48 keyphrases, a text, a chain of thought) on a few hundred distinct pictures of 56 x 56.
Each stage runs in a process of its own; printed are its seconds, the peak of its resident memory and of its largest
worker's, and what a post more adds to it.
"""

import argparse
import dataclasses
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import describe_machine
from configs.base import get_config
from mmkp_jax.data.examples import BOTH, Recipe
from mmkp_jax.data.forest import Geometry, RowSize
from mmkp_jax.data.lengths import choose, index, sizes_of
from mmkp_jax.data.plan import plan_epoch
from mmkp_jax.data.posts import Post
from mmkp_jax.data.prompts import read_template
from mmkp_jax.data.records import open_split, write_dataset
from mmkp_jax.pocket.tokenizer import train_tokenizer

PICTURES = 300
WORDS = tuple(f"{start}{middle}{end}" for start in ("ba", "ke", "lo", "mi") for middle in "drst" for end in ("n", "ly"))
STAGES = ("prepare", "index", "plan", "describe")


def make_posts(count: int) -> Iterator[Post]:
    """`count` posts, one at a time."""
    for number in range(count):
        rng = random.Random(number)
        text, cot = (" ".join(rng.choices(WORDS, k=words)) for words in (25, 110))
        keyphrases = tuple(f"{rng.choice(WORDS)} {rng.randrange(5000)}" for _ in range(rng.choice((4, 5))))
        yield Post(f"train-{number + 1}", text, f"{number % PICTURES}.jpg", keyphrases, cot, "made", number + 1)


def make_pictures(folder: Path) -> None:
    """The distinct pictures."""
    folder.mkdir(exist_ok=True)
    for number in range(PICTURES):
        small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(small).resize((56, 56)).save(folder / f"{number}.jpg")


def recipe_of_3b() -> Recipe:
    """The 3B's limits, with a small tokenizer of these words."""
    config = get_config()
    tokenizer = train_tokenizer(WORDS)
    image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    limits = {name: config.data[name] for name in ("min_pixels", "max_pixels", "max_text_tokens")}
    return Recipe(read_template(tokenizer, image_token=image_token), Geometry(image_token), **limits)


def run_stage(stage: str, folder: Path, count: int, workers: int) -> None:
    """One stage on the dataset of `count` posts in `folder`."""
    dataset = folder / str(count)
    if stage == "prepare":
        write_dataset(dataset, {"train": make_posts(count)}, folder / "images", on_bad_row="error")
        return
    if stage == "describe":
        command = [sys.executable, "-m", "mmkp_jax.describe", f"--data={dataset}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return
    config = get_config()
    lengths = index(open_split(dataset, "train"), recipe_of_3b(), dataset / "index", workers=workers)
    if stage == "plan":
        size = RowSize(**config.row)
        posts, _ = choose(lengths, size, BOTH)
        sizes = sizes_of(lengths, BOTH)
        for epoch in range(config.num_epochs):
            plan_epoch(sizes, size, seed=0, epoch=epoch, batch_rows=config.global_batch_size, posts=posts)


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a stage took."""

    seconds: float
    own_mb: float
    worker_mb: float
    """Of the largest process that it started."""


def measured(stage: str, folder: Path, count: int, workers: int) -> Usage:
    """The stage in a process of its own."""
    flags = [f"--stage={stage}", f"--keep={folder}", f"--posts={count}", f"--workers={workers}"]
    command = [sys.executable, "-m", "benchmarks.soak_data", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    return Usage(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", default="36000,360000")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", type=Path, help="leave the datasets in this folder")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        begun = time.perf_counter()
        run_stage(args.stage, args.keep, int(args.posts), args.workers)
        seconds = time.perf_counter() - begun
        peaks = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(json.dumps(dataclasses.asdict(Usage(seconds, *peaks))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        soak(args.keep or Path(temporary), [int(count) for count in args.posts.split(",")], args.workers)


def soak(folder: Path, counts: list[int], workers: int) -> None:
    """Runs and prints every stage at each number of posts."""
    folder.mkdir(parents=True, exist_ok=True)
    make_pictures(folder / "images")
    print(describe_machine())
    print(f"{'stage':<10}{'posts':>9}{'s':>9}{'posts/s':>10}{'MB':>9}{'MB of a worker':>16}{'bytes a post more':>19}")
    for stage in STAGES:
        before: tuple[int, Usage] | None = None
        for count in counts:
            used = measured(stage, folder, count, workers)
            more = ""
            if before:
                grown = (used.own_mb + used.worker_mb) - (before[1].own_mb + before[1].worker_mb)
                more = f"{grown * 2**20 / (count - before[0]):,.0f}"
            rate = f"{count / used.seconds:,.0f}"
            cells = f"{used.seconds:>9.1f}{rate:>10}{used.own_mb:>9,.0f}{used.worker_mb:>16,.0f}{more:>19}"
            print(f"{stage:<10}{count:>9,}{cells}", flush=True)
            before = count, used


if __name__ == "__main__":
    main()
