"""What a cache of the frozen tower's features costs and saves: measured on pocket, by arithmetic for real models.

    python -m benchmarks.features [--posts=N] [--rounds=N] [--steps=N] [--mfu=F]

Measured: posts a second of Dynamic CoT's train step on pocket with the tower frozen, with pixels and with features, the
same batches in turns; the pass that fills the cache; posts a second of the loader alone; and an image of the 3B's size
on the loader's side, as a JPEG file and as features. The losses of both sides
are compared before.

Arithmetic, for MMKP-V2's posts on one H100: bytes, FLOPs of the tower and its share of a step (`models.flops`), what is
saved in a number of epochs, and how fast features must be read so that no step waits.
"""

import argparse
import io
import statistics
import tempfile
import time
import timeit
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from benchmarks.machine import describe_machine
from mmkp_jax.data.feature_store import FeatureKind, FeatureStore, digest_of
from mmkp_jax.data.forest import Forest, map_arrays
from mmkp_jax.data.images import with_image
from mmkp_jax.data.pipeline import Feed, batches
from mmkp_jax.data.posts import read_jsonl
from mmkp_jax.data.records import write_dataset
from mmkp_jax.families.qwen2_5_vl.processor import Qwen2_5_VLProcessor
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import load_tokenizer, open_folder
from mmkp_jax.hf.preprocessor import training_settings
from mmkp_jax.models.flops import step_flops
from mmkp_jax.models.mfu import needed_flops
from mmkp_jax.models.sharding import place_batch
from mmkp_jax.planning.text import markdown_table
from mmkp_jax.planning.workload import PAPER_POSTS, workload_of
from mmkp_jax.pocket.make import make_pocket
from mmkp_jax.runtime.config import read_config
from mmkp_jax.training.batches import TrainingData, complete_config, plan_posts, recipe_of
from mmkp_jax.training.feature_cache import feed_of, in_units, planned_features
from mmkp_jax.training.setup import Plan, load_state, plan_training
from mmkp_jax.training.step import State

H100 = 989e12
"""FLOP/s of bfloat16 products, as published."""

MODELS = ("3b", "7b")
PIXELS, FEATURES = "pixels", "features"


def pocket_config(folder: Path, posts: int) -> ConfigDict:
    """Pocket's Dynamic CoT with the tower frozen, for data made in `folder`."""
    make_pocket(folder / "pocket", sizes={"train": posts, "valid": 1, "test": 1})
    train = {"train": read_jsonl(folder / "pocket" / "posts" / "train.jsonl")}
    write_dataset(folder / "dataset", train, folder / "pocket" / "images")
    fields = {"make": "", "model.path": folder / "pocket" / "model", "data.path": folder / "dataset"}
    fields |= {"data.features": folder / "features", "data.kinds": "", "freeze": "tower"}
    return read_config("configs/dyncot.py", [f"--config.{name}={value}" for name, value in fields.items()])


def prepared(config: ConfigDict) -> tuple[ConfigDict, Plan, State, TrainingData]:
    """The run, as `main` sets it up."""
    folder = open_folder(config.model.path)
    tokenizer, where = load_tokenizer(folder), folder.config_file
    definition = define(folder.config, where)
    config = complete_config(config, definition, training_settings(folder.path, folder.family, folder.model_config))
    training = plan_posts(config, recipe_of(config, definition, tokenizer))
    plan = plan_training(config, folder.config, where, total_steps=training.steps)
    return config, plan, load_state(plan, folder), training


def measure(posts: int, rounds: int, steps: int) -> None:
    """Prints what is measured on pocket."""
    with tempfile.TemporaryDirectory() as folder:
        config, plan, state, training = prepared(pocket_config(Path(folder), posts))
        start = time.perf_counter()
        feed = feed_of(config, plan, state, training, lambda: False)
        passed = time.perf_counter() - start
        feeds = {PIXELS: training.feed, FEATURES: feed}
        loading = {name: [load_seconds(each, training) for _ in range(rounds)] for name, each in feeds.items()}
        forests = {name: taken(each, training, steps) for name, each in feeds.items()}
        of_steps = int(sum(forest.segment_BT.max(axis=1).sum() for forest in forests[PIXELS]))
        placed = {name: [place_batch(with_micro(each), plan.mesh) for each in forests[name]] for name in feeds}
        losses, seconds, busy = {}, {name: [] for name in feeds}, {name: [] for name in feeds}
        for number in range(rounds + 1):
            for name in list(feeds)[:: -1 if number % 2 else 1]:  # the one that ran last runs first
                began = time.process_time()
                state, losses[name], spent = run(plan, state, placed[name], first=number == 0)
                if number:  # the first compiles
                    seconds[name].append(spent)
                    busy[name].append(time.process_time() - began)
            if number == 0:
                found = np.max(np.abs(np.subtract(losses[PIXELS][0], losses[FEATURES][0])) / losses[PIXELS][0])
                print(f"losses of the first step with features and with pixels: equal to {found:.1g}")
    rows = [
        {
            "": name,
            "posts/s of steps": f"{of_steps / statistics.median(seconds[name]):.1f}",
            "rounds": " ".join(f"{of_steps / each:.1f}" for each in seconds[name]),
            "processor ms a post": f"{1e3 * statistics.median(busy[name]) / of_steps:.1f}",
            "posts/s of the loader": f"{posts / statistics.median(loading[name]):.0f}",
        }
        for name in feeds
    ]
    print(markdown_table(rows))
    needs = {name: sum(needed_flops(plan.definition, config.freeze, each) for each in forests[name]) for name in feeds}
    print(f"the tower's share of the FLOPs that these posts need: {1 - needs[FEATURES] / needs[PIXELS]:.1%}")
    print(f"the pass, its compilation included: {passed:.1f} s for {posts:,} posts")


def measure_reading(rounds: int) -> None:
    """Prints the time that an image of the 3B takes on a loader's core, as a JPEG file and as features."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    image, buffer = Image.fromarray(noise).resize((1024, 768), Image.Resampling.BICUBIC), io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    processor = Qwen2_5_VLProcessor(image_token=0)
    layout = processor.layout(image.height, image.width)
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder), FeatureKind(1280, "uint16"))
        store.write(digest_of(buffer.getvalue()), np.zeros((layout.slots[0], 1280), np.uint16))
        ways = {
            "decoded and resized": lambda: with_image(buffer.getvalue(), lambda each: processor.pixels(each, layout)),
            "read from memory's copy of the disk": lambda: store.read(buffer.getvalue(), layout.slots[0]),
        }
        times = {name: 1e3 * min(timeit.repeat(way, number=5, repeat=rounds)) / 5 for name, way in ways.items()}
    size = f"a JPEG of {image.width} x {image.height}, {len(buffer.getvalue()):,} bytes, {layout.slots[0]:,} patches"
    print(f"{size}: " + ", ".join(f"{name} in {each:.1f} ms" for name, each in times.items()))


def with_micro(forest: Forest) -> Forest:
    """The batch as one micro-batch."""
    return map_arrays(lambda array: array[None], forest)


def taken(feed: Feed, training: TrainingData, steps: int) -> list[Forest]:
    """The first batches."""
    return [forest for _, (_, forest) in zip(range(steps), batches(feed, training.plans), strict=False)]


def load_seconds(feed: Feed, training: TrainingData) -> float:
    """Seconds to load an epoch, in threads."""
    start = time.perf_counter()
    for _ in batches(feed, training.plans[:1]):
        pass
    return time.perf_counter() - start


def run(plan: Plan, state: State, placed: Sequence[Forest], *, first: bool) -> tuple[State, list[float], float]:
    """The state after the batches (of the first round: as it was), the losses, and the seconds."""
    losses, start = [], time.perf_counter()
    before = jax.tree.map(lambda leaf: leaf.copy(), state) if first else None
    with jax.set_mesh(plan.mesh):
        for batch in placed[: 1 if first else None]:
            state, metrics, _ = plan.step(state, batch)
            losses.append(metrics["loss"])
    jax.block_until_ready(state)
    return before or state, [float(loss) for loss in losses], time.perf_counter() - start


def arithmetic(model: str, mfu: float) -> dict[str, str]:
    """The cells of a real model."""
    flags = ["--config.data.features=features"]
    workload = workload_of(read_config(f"configs/dyncot.py:model=qwen2_5_vl_{model},data=mmkp_v2", flags))
    config, definition, load = workload.config, workload.definition, workload.load
    flops = {part: of.total / load.posts for part, of in step_flops(definition, config.freeze, load.work).items()}
    whole, tower = sum(flops.values()), flops["tower"]
    kind, post = planned_features(config, definition), definition.family.typical_post
    each = post[definition.processor.slots[0]] * kind.bytes
    fill = post[definition.processor.slots[0]] / definition.processor.largest().slots[0]
    rate = mfu * H100 / (whole - tower)
    saved = {epochs: (epochs - 1 / fill) * tower / (epochs * whole) for epochs in (2, 5)}
    return {
        "model": model.upper(),
        "a post": in_units(each),
        f"{PAPER_POSTS:,} posts": in_units(each * PAPER_POSTS),
        "tower, TFLOP a post": f"{tower / 1e12:.2f}",
        "of a step": f"{tower / whole:.1%}",
        "saved in 2, 5 epochs": ", ".join(f"{share:.1%}" for share in saved.values()),
        "saved by a filled cache": f"{tower / whole:.1%}",
        f"posts/s at {mfu:.0%} MFU": f"{mfu * H100 / whole:.1f} → {rate:.1f}",
        "to read": f"{in_units(each * rate)}/s",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--mfu", type=float, default=0.45, help="share of the peak that a step reaches, as assumed")
    flags = parser.parse_args()
    print(describe_machine())
    measure(flags.posts, flags.rounds, flags.steps)
    measure_reading(flags.rounds)
    print(markdown_table([arithmetic(model, flags.mfu) for model in MODELS]))


if __name__ == "__main__":
    main()
