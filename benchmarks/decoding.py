"""What decoding is worth: posts a second beside transformers' `generate`, and beside whole batches.

    python -m benchmarks.decoding [--posts=N] [--rounds=N] [--slots=N] [--max_tokens=N] [--transformers=32,64,...]

All decode the same posts of pocket (text and picture), greedily, with pocket's untrained model in float32. As that
model ends no answer, each post is told how many tokens its answer has, the same on every side: as in the paper's
Dynamic CoT, whose Table 7 has 96.82 words a post, between 1.89 without reasoning and 157.37 with it, so that 61%
reason. The paper does not say how much lengths vary: once they have a standard deviation of a quarter, and once all
that reason are equally long.

Slots lie on as many CPU devices as there are cores. Whole batches are the same program, given as many posts at a time
as it has slots: each waits for its longest answer. transformers is given its batches ready (left padding, posts sorted
by length of prompt), and decodes in one process with a thread for each core, and in a process for each core with a
thread each and every other batch; of these and of the batch sizes in --transformers, the fastest. No side reads
pictures' files. Answers are compared token by token first. Every side has run before it is timed; rounds are
interleaved. The time to the first token of every post is that of a run that decodes no other. Processor seconds say how
much work it was, whatever else the machine did meanwhile.
"""

import argparse
import contextlib
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.machine import describe_machine
from mmkp_jax.data.examples import tree_of
from mmkp_jax.data.forest import Tree
from mmkp_jax.data.posts import read_jsonl
from mmkp_jax.data.shards import record_of
from mmkp_jax.decoding.generate import Generator
from mmkp_jax.decoding.prompts import prompt_of
from mmkp_jax.families.qwen2_5_vl.processor import CLIP_MEAN, CLIP_STD
from mmkp_jax.inference.load_model import LoadedModel, load_model
from mmkp_jax.models.sharding import make_mesh
from mmkp_jax.pocket.make import make_pocket

POCKET = Path("runs/pocket")
Answers = dict[int, list[int]]
Side = Callable[[int], tuple[Answers, float]]
"""Decodes all posts up to so many tokens each; tells the processor seconds, too, where other processes take them."""

REASONED = (96.82 - 1.89) / (157.37 - 1.89)
"""The share of posts that reason."""
WORDS = 157.37
"""Of an answer with reasoning."""
DIRECT = range(1, 5)
"""Tokens of an answer without reasoning: the mean of their number is that of 1.89 words."""
TOKENS_A_WORD = 4 / 3
MIXES = {"lengths vary by a quarter": 0.25, "all that reason are equally long": 0.0}
"""Standard deviations as a share of the mean."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--max_tokens", type=int, default=384)
    parser.add_argument("--transformers", default="32,64,128,256", help="batch sizes to try; empty leaves it out")
    args = parser.parse_args()

    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    make_pocket(POCKET)
    loaded = load_model(str(POCKET / "model"))
    posts = list(read_jsonl(POCKET / "posts" / "train.jsonl"))[: args.posts]
    trees = [tree_of(record_of(post, POCKET / "images"), loaded.recipe, ()) for post in posts]

    for name, spread in MIXES.items():
        lengths = draw_lengths(len(trees), spread, args.max_tokens)
        direct, cut = sum(length in DIRECT for length in lengths), lengths.count(args.max_tokens)
        told = f"{direct} without reasoning, {cut} cut at {args.max_tokens}, the longest {max(lengths)}"
        print(f"\n{name}: {len(lengths)} posts, {np.mean(lengths):.1f} tokens each; {told}", flush=True)
        sides = ours(loaded, trees, lengths, args.slots, args.max_tokens)
        expected, _ = sides["refilled"](args.max_tokens)
        if args.transformers:
            sizes = [int(each) for each in args.transformers.split(",")]
            sides["transformers"] = fastest(trees, lengths, sizes, args.max_tokens)
        check_equal(sides, expected, args.max_tokens)
        report(interleaved(sides, args.rounds, args.max_tokens), len(trees), args)


def draw_lengths(posts: int, spread: float, max_tokens: int) -> list[int]:
    """Tokens of each post's answer: log-normal where it reasons."""
    rng = np.random.default_rng(0)
    variance = math.log1p(spread**2)
    long = rng.lognormal(math.log(WORDS * TOKENS_A_WORD) - variance / 2, math.sqrt(variance), posts)
    drawn = np.where(rng.random(posts) < REASONED, long.round(), rng.choice(DIRECT, posts))
    return np.minimum(drawn, max_tokens).astype(int).tolist()


def check_equal(sides: dict[str, Side], expected: Answers, max_tokens: int) -> None:
    """Stops unless the answers are equal, but for one in a hundred, where tokens may be as likely up to rounding."""
    for name, side in sides.items():
        found, _ = side(max_tokens)
        other = [number for number, tokens in expected.items() if found[number] != tokens]
        print(f"{name}: {len(other)} answers differ", flush=True)
        if len(other) > len(expected) / 100:
            raise SystemExit("they are not equal: no timing would mean anything")
        side(max_tokens)
        side(1)  # so that what it compiles for that is there, too


def ours(
    loaded: LoadedModel, trees: Sequence[Tree], lengths: Sequence[int], slots: int, max_tokens: int
) -> dict[str, Side]:
    """Decoding with slots that are refilled, and in whole batches."""
    mesh = make_mesh({"data": -1})
    params = jax.device_put(loaded.params, NamedSharding(mesh, PartitionSpec()))

    settings = dict(slots=slots, stop_tokens=(), dtype=loaded.dtype)
    generators = {
        max_tokens: Generator(loaded.definition, mesh, answer_tokens=max_tokens, **settings),
        1: Generator(loaded.definition, mesh, answer_tokens=1, sync_every=1, **settings),
    }
    processor = loaded.recipe.processor
    prompts = [
        prompt_of(str(number), tree, processor)._replace(most_tokens=length)
        for number, (tree, length) in enumerate(zip(trees, lengths, strict=True))
    ]

    def decoded(most: int, numbers: Sequence[int]) -> Answers:
        chosen = [prompts[number] for number in numbers]
        found = generators[most](params, chosen, lambda which: trees[numbers[which]])
        return {numbers[each.prompt]: each.tokens for each in found}

    def refilled(most: int) -> tuple[Answers, float]:
        return decoded(most, range(len(prompts))), 0.0

    def in_batches(most: int) -> tuple[Answers, float]:
        found: Answers = {}
        for start in range(0, len(prompts), slots):
            found |= decoded(most, range(start, min(start + slots, len(prompts))))
        return found, 0.0

    return {"refilled": refilled, "whole batches": in_batches}


class Theirs:
    """transformers' `generate`, in one process, with a batch size.

    Args:
        which: of the batches, those that are decoded here.
    """

    def __init__(
        self, trees: Sequence[Tree], lengths: Sequence[int], size: int, threads: int, which: slice = slice(None)
    ):
        import torch
        from transformers import Qwen2_5_VLForConditionalGeneration

        self._torch, self._lengths = torch, lengths
        torch.set_num_threads(threads)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(POCKET / "model", dtype=torch.float32)
        self._model = model.eval()
        self._model.generation_config.eos_token_id = None
        order = sorted(range(len(trees)), key=lambda number: len(trees[number].prompt))
        batches = [order[start : start + size] for start in range(0, len(trees), size)][which]
        self._batches = [(batch, self._inputs([trees[number] for number in batch])) for batch in batches]

    def __call__(self, most: int) -> tuple[Answers, float]:
        """The answers, and this process's processor seconds."""
        busy, found = time.process_time(), {}
        for batch, inputs in self._batches:
            self._model.model.rope_deltas = None
            width = inputs["input_ids"].shape[1]
            ends_B = self._torch.tensor([width + self._lengths[number] for number in batch])
            with self._torch.no_grad():
                out = self._model.generate(
                    **inputs,
                    max_new_tokens=most,
                    do_sample=False,
                    stopping_criteria=[lambda tokens, _, ends_B=ends_B: tokens.shape[1] >= ends_B],
                    pad_token_id=0,
                )
            for number, tokens in zip(batch, out[:, width:].tolist(), strict=True):
                found[number] = tokens[: min(most, self._lengths[number])]
        return found, time.process_time() - busy

    def _inputs(self, trees: Sequence[Tree]) -> dict:
        mean, std = (np.asarray(each, np.float32).reshape(3, 1, 1) for each in (CLIP_MEAN, CLIP_STD))
        width = max(len(tree.prompt) for tree in trees)
        token_BT, mask_BT = np.zeros((len(trees), width), np.int64), np.zeros((len(trees), width), np.int64)
        for row, tree in enumerate(trees):
            token_BT[row, width - len(tree.prompt) :] = tree.prompt
            mask_BT[row, width - len(tree.prompt) :] = 1
        image_BT = token_BT == self._model.config.image_token_id
        made = {"input_ids": token_BT, "attention_mask": mask_BT, "mm_token_type_ids": image_BT}
        if patches := [values for tree in trees for values in tree.pixels]:
            values = np.concatenate(patches).reshape(-1, 3, 1, 196).astype(np.float32) / 255
            made["pixel_values"] = ((values - mean) / std).repeat(2, axis=2).reshape(len(values), -1)
            made["image_grid_thw"] = np.array([(1, *layout.shape) for tree in trees for layout in tree.layouts])
        return {name: self._torch.from_numpy(array * 1) for name, array in made.items()}


class Processes:
    """`Theirs` with a thread in each of some processes, every so manyth batch in each; to be closed."""

    def __init__(self, trees: Sequence[Tree], lengths: Sequence[int], size: int, processes: int):
        context = multiprocessing.get_context("spawn")
        self._pipes, self._started = [], []
        for first in range(processes):
            here, there = context.Pipe()
            which = slice(first, None, processes)
            self._started.append(context.Process(target=_serve, args=(there, trees, lengths, size, which), daemon=True))
            self._started[-1].start()
            self._pipes.append(here)

    def __call__(self, most: int) -> tuple[Answers, float]:
        for pipe in self._pipes:
            pipe.send(most)
        told = [pipe.recv() for pipe in self._pipes]
        found = {number: tokens for answers, _ in told for number, tokens in answers.items()}
        return found, sum(busy for _, busy in told)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._started:
            process.join()


def _serve(pipe: Connection, trees: Sequence[Tree], lengths: Sequence[int], size: int, which: slice) -> None:
    side = Theirs(trees, lengths, size, 1, which)
    with contextlib.suppress(EOFError):  # the other end was not closed: it is gone
        while (most := pipe.recv()) is not None:
            pipe.send(side(most))


def fastest(trees: Sequence[Tree], lengths: Sequence[int], sizes: Sequence[int], max_tokens: int) -> Side:
    """Of transformers' batch sizes, and of one process and several, what takes the fewest seconds."""
    cores = os.cpu_count()
    ways: dict[str, Callable[[int], Side]] = {
        f"1 process, {cores} threads": lambda size: Theirs(trees, lengths, size, cores),
        f"{cores} processes": lambda size: Processes(trees, lengths, size, cores),
    }
    seconds: dict[tuple[str, int], float] = {}
    for way, made in ways.items():
        for size in sizes:
            side = made(size)
            side(1)
            seconds[way, size] = timed(side, max_tokens).wall
            if isinstance(side, Processes):
                side.close()
        print(f"transformers, {way}, seconds by batch size:", {s: round(seconds[way, s], 1) for s in sizes}, flush=True)
    way, size = min(seconds, key=seconds.__getitem__)
    print(f"the fastest: {way}, batches of {size}", flush=True)
    return ways[way](size)


class Taken(NamedTuple):
    """Seconds."""

    wall: float
    processor: float


def timed(side: Side, most: int) -> Taken:
    start, busy = time.perf_counter(), time.process_time()
    _, elsewhere = side(most)
    wall, here = time.perf_counter() - start, time.process_time() - busy
    return Taken(wall, max(here, elsewhere))  # one of the two works while the other waits


def interleaved(sides: dict[str, Side], rounds: int, max_tokens: int) -> dict[str, list[tuple[Taken, Taken]]]:
    """Of each side in each round: up to the first tokens, and in all; the order changes from round to round."""
    taken: dict[str, list[tuple[Taken, Taken]]] = {name: [] for name in sides}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for name in rng.permutation(list(sides)):
            taken[name].append((timed(sides[name], 1), timed(sides[name], max_tokens)))
    return taken


def report(taken: dict[str, list[tuple[Taken, Taken]]], posts: int, args: argparse.Namespace) -> None:
    """The table: medians over the rounds, and how often ours fits into each side's time, of the same round."""
    print(f"{args.slots} slots, {args.rounds} rounds; {describe_machine()}")
    head = f"{'':14} {'posts/s':>8} {'first token':>12} {'the rest':>9} {'processor':>10}"
    print(f"{head}  as a multiple of refilled's (least-most)")
    for name, found in taken.items():
        first, whole = np.array(found).transpose(1, 2, 0)
        ratio = whole / np.array(taken["refilled"]).transpose(1, 2, 0)[1]
        told = (f"{np.median(each):.2f} ({each.min():.2f}-{each.max():.2f})" for each in ratio)
        wall, busy = np.median(whole, axis=1)
        begun = np.median(first[0])
        print(
            f"{name:14} {posts / wall:8.1f} {begun:10.1f} s {wall - begun:7.1f} s {busy:8.1f} s"
            f"  {next(told)}; of processor {next(told)}"
        )


if __name__ == "__main__":
    main()
