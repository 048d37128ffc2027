"""Posts a second from records to packed batches, against transformers' own processor on the same posts and cores.

    python -m benchmarks.loader --raw=DIR --images=DIR --ranks=FILE [--posts=N] [--workers=0,1,2] [--rounds=N]

Ours: a record is read, its picture decoded, resized and cut into uint8 patches, prompt and targets become tokens, and
posts are packed into planned rows. Theirs: of the same records, `Qwen2VLImageProcessorPil` and the tokenizer make
normalised float32 patches and padded token numbers. Both are loaded by Grain in the same numbers of worker processes,
and each is given its best. Every run is a process of its own, whose peak memory is told with its workers'. Before,
grids, pixels and tokens of both sides are checked to be equal. Posts are in CMKP's layout (see `benchmarks.packing`).
"""

import argparse
import dataclasses
import gc
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.machine import describe_machine
from benchmarks.packing import qwen_tokenizer, why
from configs.base import get_config
from mmkp_jax.data.examples import BOTH, Recipe, tree_of
from mmkp_jax.data.forest import row_size
from mmkp_jax.data.pipeline import BUFFERED, Feed, batches
from mmkp_jax.data.plan import plan_epoch
from mmkp_jax.data.posts import Post, Record, read_cmkp
from mmkp_jax.data.prompts import trimmed, user_text
from mmkp_jax.data.records import Split, open_split, write_dataset
from mmkp_jax.data.size_index import index, select_posts, sizes_of
from mmkp_jax.families.qwen2_5_vl.processor import Qwen2_5_VLProcessor

CONFIG = get_config()
SIZE = row_size(CONFIG.row, Qwen2_5_VLProcessor(image_token=0))
ROWS = 2
"""Packed rows of our batches: some ten posts."""

POSTS = 10
"""Posts of their batches."""


def recipe_of(tokenizer: PreTrainedTokenizerFast) -> Recipe:
    """As the 3B is fed."""
    image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    processor = Qwen2_5_VLProcessor(image_token)
    return Recipe(processor.template(tokenizer), processor, CONFIG.data.max_text_tokens)


@dataclasses.dataclass(frozen=True)
class Theirs:
    """Posts through transformers' processor."""

    records: Split
    recipe: Recipe
    tokenizer: PreTrainedTokenizerFast

    def load(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Patches, grids and token numbers of a batch."""
        records = [self.records[number] for number in numbers]
        images = [ImageOps.exif_transpose(Image.open(io.BytesIO(record.image))) for record in records]
        processor = self.recipe.processor
        size = {"shortest_edge": processor.min_pixels, "longest_edge": processor.max_pixels}
        made = dict(Qwen2VLImageProcessorPil(size=size)(images=images, return_tensors="np"))
        merged = made["image_grid_thw"].prod(axis=1) // 4
        texts = [self.text(record, count) for record, count in zip(records, merged.tolist(), strict=True)]
        tokens = self.tokenizer(texts, padding=True, return_tensors="np")
        return made | {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}

    def text(self, record: Record, image_tokens: int) -> str:
        """A post's prompt and its CoT target, with the picture's token repeated."""
        text = trimmed(record.text, self.recipe.template, max_text_tokens=self.recipe.max_text_tokens)
        content = [{"type": "image"}, {"type": "text", "text": user_text(text)}]
        turn = [{"role": "user", "content": content}]
        prompt = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        target = f"<think>{record.cot}</think><answer>{'; '.join(record.keyphrases)}</answer><|im_end|>"
        return prompt.replace("<|image_pad|>", "<|image_pad|>" * image_tokens) + target


def ours_running(records: Split, recipe: Recipe, workers: int, index_folder: Path) -> Iterator[int]:
    """Loads our batches for ever; yields the posts of each."""
    lengths = index(records, recipe, index_folder)
    posts, _ = select_posts(lengths, SIZE, BOTH)
    sizes = sizes_of(lengths, BOTH)
    plans = [plan_epoch(sizes, SIZE, seed=0, epoch=epoch, batch_rows=ROWS, posts=posts) for epoch in range(100)]
    for _, forest in batches(Feed(records, recipe, SIZE), plans, workers=workers):
        yield int(forest.segment_BT.max(axis=1).sum())


def theirs_running(theirs: Theirs, workers: int) -> Iterator[int]:
    """Loads their batches for ever, through Grain as ours; yields the posts of each."""
    import grain
    from absl import flags

    reading = grain.ReadOptions(num_threads=1 if workers else 2, prefetch_buffer_size=BUFFERED)
    shuffled = grain.MapDataset.source(range(len(theirs.records))).seed(0).shuffle().repeat()
    batched = shuffled.batch(POSTS, batch_fn=list)
    loading = batched.map(theirs.load).to_iter_dataset(reading)
    if workers:
        flags.FLAGS.mark_as_parsed()
        loading = loading.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=BUFFERED))
    iterator = iter(loading)
    try:
        while True:
            yield len(next(iterator)["input_ids"])
    finally:
        iterator.close()
        del iterator
        gc.collect()  # as in `batches`: else Grain's last batches end as leaks of shared memory


def check_equal(records: Split, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
    """Stops unless grids and tokens are the same on both sides, and pixels within one step of uint8."""
    theirs = Theirs(records, recipe, tokenizer)
    processor = Qwen2VLImageProcessorPil()
    std, mean = (np.repeat(np.asarray(each), 196) for each in (processor.image_std, processor.image_mean))
    most = 0.0
    for number in range(len(records)):
        tree, made = tree_of(records[number], recipe, ("cot",)), theirs.load([number])
        tokens = np.concatenate([tree.prompt, tree.cot])
        if made["image_grid_thw"].tolist() != [[1, *tree.layouts[0].shape]] or made["input_ids"].tolist() != [
            tokens.tolist()
        ]:
            sys.exit(f"{records[number].id}: grids or tokens are not the same")
        values = made["pixel_values"].reshape(-1, 3, 2, 196)[:, :, 0].reshape(-1, 588)
        most = max(most, float(np.abs((values * std + mean) * 255 - tree.pixels[0]).max()))
    if most > 1.01:
        sys.exit(f"pixels differ by {most:.2f} steps")
    print(f"{len(records)} posts on both sides: the same grids and tokens, pixels within {most:.2f} of 255")


def measured(args: argparse.Namespace, dataset: Path) -> dict[str, float]:
    """One side with one number of workers, in this process: posts a second, and MB at the peak."""
    records, tokenizer = open_split(dataset, "train"), qwen_tokenizer(args.ranks)
    recipe = recipe_of(tokenizer)
    workers = int(args.workers)
    if args.side == "ours":
        running = ours_running(records, recipe, workers, dataset / "index")
    else:
        running = theirs_running(Theirs(records, recipe, tokenizer), workers)
    for _ in range(2 * max(workers, 1) * BUFFERED):  # whatever was loaded while the workers began
        next(running)
    posts, begun = 0, time.perf_counter()
    while posts < args.posts:
        posts += next(running)
    seconds = time.perf_counter() - begun
    running.close()
    own, worker = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"posts_s": posts / seconds, "own_mb": own, "worker_mb": worker * bool(workers)}


def run_apart(args: argparse.Namespace, side: str, workers: str, dataset: Path) -> dict[str, float]:
    """The same in a process of its own."""
    flags = [f"--{name}={getattr(args, name)}" for name in ("raw", "images", "ranks", "posts")]
    command = [sys.executable, "-m", "benchmarks.loader", *flags, f"--workers={workers}", f"--side={side}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([*command, f"--dataset={dataset}"], stdout=subprocess.PIPE, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def prepare(args: argparse.Namespace, out: Path) -> Split:
    """A dataset of `--posts` posts whose pictures are there, each with a stand-in for a chain of thought."""
    posts = (post for split in ("valid", "test") for post in read_cmkp(args.raw, split) if isinstance(post, Post))
    there = (post for post in posts if (args.images / post.image).is_file())
    chosen = [dataclasses.replace(post, cot=why(post, 110)) for post, _ in zip(there, range(args.posts), strict=False)]
    write_dataset(out, {"train": chosen}, args.images)
    return open_split(out, "train")


def time_records(records: Split) -> None:
    """Prints records a second, in random order."""
    order = np.random.default_rng(0).permutation(len(records)).tolist() * max(1, 4000 // len(records))
    begun = time.perf_counter()
    size = sum(len(records[number].image) for number in order)
    seconds = time.perf_counter() - begun
    print(f"random access to ArrayRecord: {len(order) / seconds:,.0f} records/s of {size / len(order) / 1e3:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("raw", "images", "ranks"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--posts", type=int, default=400)
    parser.add_argument("--workers", default=",".join(map(str, range(len(os.sched_getaffinity(0)) + 1))))
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is taken")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--dataset", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measured(args, args.dataset)))
        return
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "dataset"
        records, tokenizer = prepare(args, dataset), qwen_tokenizer(args.ranks)
        check_equal(records, recipe_of(tokenizer), tokenizer)
        time_records(records)
        best = {"ours": 0.0, "theirs": 0.0}
        print(f"{'':<8}{'workers':>8}{'posts/s':>9}{'quartiles':>14}{'MB at the peak':>16}")
        cases = [(side, workers) for workers in args.workers.split(",") for side in best]
        runs = {case: [] for case in cases}
        for _ in range(args.rounds):  # in turn, so that a noisy machine disturbs all alike
            for side, workers in cases:
                runs[side, workers].append(run_apart(args, side, workers, dataset))
        for (side, workers), found in runs.items():
            speed = statistics.median(run["posts_s"] for run in found)
            low, high = np.percentile([run["posts_s"] for run in found], [25, 75])
            memory = max(run["own_mb"] + int(workers) * run["worker_mb"] for run in found)
            print(f"{side:<8}{workers:>8}{speed:>9.1f}{f'{low:.1f}–{high:.1f}':>14}{memory:>16,.0f}")
            best[side] = max(best[side], speed)
        print(f"each at its best: ours {best['ours']:.1f}, theirs {best['theirs']:.1f} posts/s, a ratio of "
              f"{best['ours'] / best['theirs']:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
