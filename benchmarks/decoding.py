"""What refilling slots is worth: posts a second beside whole batches, and beside transformers' `generate`.

    python -m benchmarks.decoding [--posts=N] [--rounds=N] [--slots=N] [--max_tokens=N] [--transformers=8,16,...]

All decode the same posts of pocket (text and picture), greedily, with pocket's untrained model in float32. That model
never ends an answer by itself, so every so manyth token of its vocabulary ends one, in two ways: most answers are then
short and a few run to the limit, as where little is reasoned, or many do. Whole batches are the same program, given as
many posts at a time as it has slots: each waits for its longest answer. transformers is given its inputs ready (left
padding, posts sorted by length), and of the batch sizes in --transformers the fastest; ours also decodes the pictures'
files. Answers are compared token by token first. Every side has run once before it is timed; rounds are interleaved;
on a CPU the ratio is of processor seconds.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.machine import describe_machine
from mmkp_jax.data.blocks import record_of
from mmkp_jax.data.examples import tree_of
from mmkp_jax.data.forest import Tree
from mmkp_jax.data.posts import read_jsonl
from mmkp_jax.decoding.generate import Generator
from mmkp_jax.decoding.prompts import measure
from mmkp_jax.models.qwen2_5_vl import CLIP_MEAN, CLIP_STD
from mmkp_jax.opening import Opened, open_model
from mmkp_jax.pocket.make import make_pocket
from mmkp_jax.sharding import make_mesh

POCKET = Path("runs/pocket")
Answers = dict[int, list[int]]

STOPS = {"few long": (1, 4), "many long": (0, 7)}
"""Which token numbers end an answer: from the first on, in steps of the second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--max_tokens", type=int, default=200)
    parser.add_argument("--transformers", default="16,32,64,128", help="batch sizes to try; empty leaves it out")
    args = parser.parse_args()

    make_pocket(POCKET)
    opened = open_model(str(POCKET / "model"))
    posts = list(read_jsonl(POCKET / "posts" / "test.jsonl"))[: args.posts]
    records = [record_of(post, POCKET / "images") for post in posts]

    def trees(numbers: Sequence[int]) -> list[Tree]:
        return [tree_of(records[number], opened.recipe, ()) for number in numbers]

    for name, (first, step) in STOPS.items():
        stop = range(first, opened.definition.config.vocab_size, step)
        sides = ours(opened, [record.id for record in records], trees, stop, args)
        expected = sides["refilled"]()
        lengths = list(map(len, expected.values()))
        print(
            f"\n{name}: answers of {lengths[len(lengths) // 2]} tokens (median), {np.mean(lengths):.1f} (mean), ",
            end="",
        )
        print(f"{sum(length == args.max_tokens for length in lengths)} of {len(lengths)} at the limit")
        if args.transformers:
            sizes = [int(each) for each in args.transformers.split(",")]
            sides["transformers"] = fastest(theirs(POCKET / "model", trees, len(records), stop, args), sizes)
        check_equal(sides, expected)
        report(interleaved(sides, args.rounds), len(records), args)


def check_equal(sides: dict[str, Callable], expected: Answers) -> None:
    """Stops unless the answers are equal, but for one in a hundred, where tokens may be as likely up to rounding."""
    for name, side in sides.items():
        other = [number for number, tokens in side().items() if tokens != expected[number]]
        print(f"{name}: {len(other)} answers differ")
        if len(other) > len(expected) / 100:
            raise SystemExit("they are not equal: no timing would mean anything")


def ours(opened: Opened, names: Sequence[str], trees: Callable, stop: Sequence[int], args) -> dict[str, Callable]:
    """Decoding with slots that are refilled, and in whole batches."""
    generator = Generator(
        opened.definition,
        make_mesh({}, jax.devices()[:1]),
        slots=args.slots,
        answer_tokens=args.max_tokens,
        stop_tokens=stop,
        dtype=opened.dtype,
    )
    numbered = enumerate(zip(names, trees(range(len(names))), strict=True))
    prompts = {number: measure(name, tree, opened.recipe.geometry) for number, (name, tree) in numbered}

    def decoded(numbers: Sequence[int]) -> Answers:
        chosen = [prompts[number] for number in numbers]
        found = generator(opened.params, chosen, lambda which: trees([numbers[which]])[0])
        return {numbers[each.prompt]: each.tokens for each in found}

    def in_batches() -> Answers:
        found: Answers = {}
        for start in range(0, len(prompts), args.slots):
            found |= decoded(range(start, min(start + args.slots, len(prompts))))
        return found

    return {"refilled": lambda: decoded(range(len(prompts))), "whole batches": in_batches}


def theirs(model: Path, trees: Callable, posts: int, stop: Sequence[int], args) -> Callable[[int], Callable]:
    """transformers' `generate`, for a batch size."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    network = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    image_token = network.config.image_token_id
    whole = dict(enumerate(trees(range(posts))))
    order = sorted(whole, key=lambda number: len(whole[number].prompt))
    mean, std = (np.asarray(each, np.float32).reshape(3, 1, 1) for each in (CLIP_MEAN, CLIP_STD))

    def inputs(batch: Sequence[int]) -> dict[str, torch.Tensor]:
        width = max(len(whole[number].prompt) for number in batch)
        token_BT, mask_BT = np.zeros((len(batch), width), np.int64), np.zeros((len(batch), width), np.int64)
        for row, number in enumerate(batch):
            token_BT[row, width - len(whole[number].prompt) :] = whole[number].prompt
            mask_BT[row, width - len(whole[number].prompt) :] = 1
        made = {"input_ids": token_BT, "attention_mask": mask_BT, "mm_token_type_ids": token_BT == image_token}
        if patches := [values for number in batch for values in whole[number].patches]:
            values = np.concatenate(patches).reshape(-1, 3, 1, 196).astype(np.float32) / 255
            made["pixel_values"] = ((values - mean) / std).repeat(2, axis=2).reshape(len(values), -1)
            made["image_grid_thw"] = np.array([(1, *grid) for number in batch for grid in whole[number].grids])
        return {name: torch.from_numpy(array * 1) for name, array in made.items()}

    @torch.no_grad()
    def decoded(batches: Sequence[tuple[Sequence[int], dict]]) -> Answers:
        found: Answers = {}
        for batch, ready in batches:
            network.model.rope_deltas = None
            out = network.generate(
                **ready, max_new_tokens=args.max_tokens, do_sample=False, eos_token_id=list(stop), pad_token_id=stop[0]
            )
            for number, tokens in zip(batch, out[:, ready["input_ids"].shape[1] :].tolist(), strict=True):
                end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
                found[number] = tokens[:end]
        return found

    ends = set(stop)

    def with_batches_of(size: int) -> Callable[[], Answers]:
        batches = [order[start : start + size] for start in range(0, posts, size)]
        ready = [(batch, inputs(batch)) for batch in batches]
        return lambda: decoded(ready)

    return with_batches_of


def fastest(side: Callable[[int], Callable], batch_sizes: Sequence[int]) -> Callable:
    """The side with the batch size that takes the fewest seconds, each tried once after one run for warmth."""
    seconds = {}
    for size in batch_sizes:
        run = side(size)
        start = time.perf_counter()
        run()
        seconds[size] = time.perf_counter() - start
    print("transformers, seconds by batch size:", {size: round(each, 1) for size, each in seconds.items()})
    return side(min(seconds, key=seconds.__getitem__))


def interleaved(sides: dict[str, Callable], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(seconds, processor seconds) of each side in each round; the order changes from round to round."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for name in rng.permutation(list(sides)):
            start, busy = time.perf_counter(), time.process_time()
            sides[name]()
            taken[name].append((time.perf_counter() - start, time.process_time() - busy))
    return taken


def report(taken: dict[str, list[tuple[float, float]]], posts: int, args) -> None:
    """The table: posts a second, and each side's time as a multiple of the first one's in the same round."""
    print(f"{posts} posts, {args.slots} slots, {args.rounds} rounds; {describe_machine()}")
    print(f"{'':16} {'posts/s':>9} {'time, of refilled':>18} {'(least-most)':>14}")
    clock = 1 if jax.default_backend() == "cpu" else 0
    base = [each[clock] for each in taken["refilled"]]
    for name, seconds in taken.items():
        ratios = [one[clock] / other for one, other in zip(seconds, base, strict=True)]
        rate = posts / statistics.median(each[0] for each in seconds)
        print(f"{name:16} {rate:9.1f} {statistics.median(ratios):18.2f} {min(ratios):8.2f}-{max(ratios):.2f}")


if __name__ == "__main__":
    main()
