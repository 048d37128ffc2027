"""Whether memory grows with the number of posts: prepare, index, plan and describe JSON Lines of two sizes.

    python -m benchmarks.soak_data [--posts=36000,360000] [--workers=N] [--keep=DIR]

Posts of MMKP-360k's shape (4.48 keyphrases, a text, a chain of thought) on a few hundred distinct images of 56 x 56.
Each stage runs in a process of its own: the commands `prepare` and, with a config and a page, `describe`; and what
training begins with. Printed are its seconds, the peak of its resident memory and of its largest worker's, and what a
post more adds to it.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe_machine
from mmkp_jax import describe, prepare
from mmkp_jax.data.records import open_split
from mmkp_jax.data.size_index import index
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import load_tokenizer, open_folder
from mmkp_jax.pocket.model import write_model
from mmkp_jax.pocket.tokenizer import train_tokenizer
from mmkp_jax.runtime.config import read_config
from mmkp_jax.training.batches import plan_posts, recipe_of

CONFIG = "configs/dyncot.py:model=qwen2_5_vl_3b"
"""Config, except for the model folder: a small one, with a tokenizer of the posts' words."""

PICTURES = 300
WORDS = tuple(f"{start}{middle}{end}" for start in ("ba", "ke", "lo", "mi") for middle in "drst" for end in ("n", "ly"))
STAGES = ("prepare", "index", "plan", "describe")


def make_rows(count: int) -> Iterator[dict[str, Any]]:
    """Yields `count` posts."""
    for number in range(count):
        rng = random.Random(number)
        text, cot = (" ".join(rng.choices(WORDS, k=words)) for words in (25, 110))
        keyphrases = [f"{rng.choice(WORDS)} {rng.randrange(5000)}" for _ in range(rng.choice((4, 5)))]
        image = f"{number % PICTURES}.jpg"
        yield {"id": f"train-{number + 1}", "text": text, "image": image, "keyphrases": keyphrases, "cot": cot}


def make_images(folder: Path) -> None:
    """The distinct images."""
    folder.mkdir(exist_ok=True)
    for number in range(PICTURES):
        small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(small).resize((56, 56)).save(folder / f"{number}.jpg")


def write_raw(raw: Path, count: int) -> None:
    """The posts as JSON Lines, in a folder of raw posts."""
    raw.mkdir(exist_ok=True)
    with (raw / "train.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in make_rows(count))


def run_stage(stage: str, folder: Path, count: int, workers: int) -> int:
    """One stage on the dataset of `count` posts in `folder`, in this process; its exit status."""
    dataset = folder / str(count)
    overrides = ["--config.make=", f"--config.model.path={folder / 'model'}"]
    if stage == "prepare":
        places = {"raw": folder / f"{count}-raw", "images": folder / "images", "out": dataset}
        flags = [f"--{name}={path}" for name, path in places.items()]
        return prepare.main(["--dataset=keyphrase_posts", "--on_bad_row=error", *flags])
    if stage == "describe":
        return describe.main([f"--config={CONFIG}", *overrides, f"--data={dataset}", f"--out={folder / 'page.html'}"])
    config = read_config(CONFIG, [*overrides, f"--config.data.path={dataset}", f"--config.data.workers={workers}"])
    model = open_folder(str(folder / "model"))
    recipe = recipe_of(config, define(model.config, str(model.path)), load_tokenizer(model))
    if stage == "index":
        index(open_split(dataset, "train"), recipe, dataset / "index", workers=workers)
    else:
        plan_posts(config, recipe)
    return 0


@dataclasses.dataclass(frozen=True)
class Usage:
    """Time and memory of a stage."""

    seconds: float
    own_mb: float
    worker_mb: float
    """Peak memory of the largest process that it started."""


def measured(stage: str, folder: Path, count: int, workers: int) -> Usage:
    """Runs the stage in a process of its own."""
    flags = [f"--stage={stage}", f"--keep={folder}", f"--posts={count}", f"--workers={workers}"]
    command = [sys.executable, "-m", "benchmarks.soak_data", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, env=environment, text=True)
    if done.returncode:
        sys.exit(done.stderr)
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
        with contextlib.redirect_stdout(sys.stderr):
            if run_stage(args.stage, args.keep, int(args.posts), args.workers):
                sys.exit(f"{args.stage} failed")
        seconds = time.perf_counter() - begun
        peaks = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(json.dumps(dataclasses.asdict(Usage(seconds, *peaks))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        soak(args.keep or Path(temporary), [int(count) for count in args.posts.split(",")], args.workers)


def soak(folder: Path, counts: list[int], workers: int) -> None:
    """Runs and prints every stage at each number of posts."""
    folder.mkdir(parents=True, exist_ok=True)
    make_images(folder / "images")
    shutil.rmtree(folder / "model", ignore_errors=True)
    write_model(train_tokenizer(WORDS), 0, folder / "model")
    for count in counts:
        write_raw(folder / f"{count}-raw", count)
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
