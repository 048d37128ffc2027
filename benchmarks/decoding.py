"""Speed of decoding: posts a second against transformers' `generate`, and against whole batches.

    python -m benchmarks.decoding [--posts=N] [--rounds=N] [--slots=N] [--max_tokens=N] [--transformers=32,64,...]
                                  [--one_process] [--pocket=DIR] [--model=FOLDER] [--differ=F] [--mixes=N] [--json=FILE]

All decode the same posts of pocket (text and image), greedily, with pocket's model in float32, or with the model of
--model, whose tokenizer is pocket's, in its own dtype; where PyTorch sees a GPU, on it. No token ends an answer: each
post is given the number of tokens of its answer, the same on every side, as in the paper's Dynamic CoT, whose Table 7
has 96.82 words a post, between 1.89 without reasoning and 157.37 with it, so that 61% reason. The paper does not say
how much lengths vary: once they have a standard deviation of a quarter, and once all that reason are equally long.

Slots are on as many CPU devices as there are cores. Whole batches are the same program, given as many posts at a time
as it has slots: each waits for its longest answer. transformers is given its batches ready (left padding, posts sorted
by length of prompt), and decodes in one process with a thread for each core, and (without --one_process) in a process
for each core with a thread each and every other batch; of these and of the batch sizes in --transformers, the fastest.
No side reads image files. Answers are compared token by token first: --differ says how many may differ, since in
bfloat16 the tokens of random weights nearly tie. Every side has run before it is timed; rounds are interleaved. The
time to the first token of every post is that of a run that decodes no other. Processor seconds say how much work it
was, whatever else the machine did meanwhile.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
"""Decodes all posts up to so many tokens each; returns the processor seconds of other processes too."""

REASONED = (96.82 - 1.89) / (157.37 - 1.89)
"""Share of posts that reason."""
WORDS = 157.37
"""Mean number of tokens of an answer with reasoning."""
DIRECT = range(1, 5)
"""Tokens of an answer without reasoning: as many as 1.89 words have on average."""
TOKENS_A_WORD = 4 / 3
MIXES = {"lengths vary by a quarter": 0.25, "all that reason are equally long": 0.0}
"""Standard deviations as a share of the mean."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--max_tokens", type=int, default=384)
    parser.add_argument("--transformers", default="32,64,128,256", help="batch sizes to try; empty leaves it out")
    parser.add_argument("--one_process", action="store_true", help="transformers decodes in one process: for a GPU")
    parser.add_argument("--pocket", type=Path, default=POCKET, help="a pocket; made if it is not there")
    parser.add_argument("--model", type=Path, help="a model's folder; by default pocket's")
    parser.add_argument("--differ", type=float, default=0.01, help="share of answers that may differ")
    parser.add_argument("--mixes", type=int, default=len(MIXES), help="kinds of lengths, from the first")
    parser.add_argument("--json", type=Path, help="a file for the figures, complete after each kind of lengths")
    args = parser.parse_args(arguments)

    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    if args.pocket == POCKET:
        make_pocket(POCKET)
    model = args.model or args.pocket / "model"
    loaded = load_model(str(model))
    posts = list(read_jsonl(args.pocket / "posts" / "train.jsonl"))[: args.posts]
    trees = [tree_of(record_of(post, args.pocket / "images"), loaded.recipe, ()) for post in posts]

    figures: dict[str, Any] = {"machine": describe_machine(), "dtype": str(jnp.dtype(loaded.dtype)), "mixes": {}}
    for name, spread in list(MIXES.items())[: args.mixes]:
        lengths = draw_lengths(len(trees), spread, args.max_tokens)
        direct, cut = sum(length in DIRECT for length in lengths), lengths.count(args.max_tokens)
        summary = f"{direct} without reasoning, {cut} cut at {args.max_tokens}, the longest {max(lengths)}"
        print(f"\n{name}: {len(lengths)} posts, {np.mean(lengths):.1f} tokens each; {summary}", flush=True)
        sides = ours(loaded, trees, lengths, args.slots, args.max_tokens)
        expected, _ = sides["refilled"](args.max_tokens)
        if args.transformers:
            sizes = [int(each) for each in args.transformers.split(",")]
            sides["transformers"] = fastest(model, trees, lengths, sizes, args.max_tokens, args.one_process)
        differ = check_equal(sides, expected, args.max_tokens, args.differ)
        taken = interleaved(sides, args.rounds, args.max_tokens)
        report(taken, len(trees), args)
        walls = {side: [whole.wall for _, whole in found] for side, found in taken.items()}
        rates = {side: len(trees) / float(np.median(wall)) for side, wall in walls.items()}
        figures["mixes"][name] = {"tokens": sum(lengths), "posts_a_second": rates, "differ": differ}
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1))


def draw_lengths(posts: int, spread: float, max_tokens: int) -> list[int]:
    """Tokens of each post's answer: log-normal where it reasons."""
    rng = np.random.default_rng(0)
    variance = math.log1p(spread**2)
    long = rng.lognormal(math.log(WORDS * TOKENS_A_WORD) - variance / 2, math.sqrt(variance), posts)
    drawn = np.where(rng.random(posts) < REASONED, long.round(), rng.choice(DIRECT, posts))
    return np.minimum(drawn, max_tokens).astype(int).tolist()


def check_equal(sides: dict[str, Side], expected: Answers, max_tokens: int, may_differ: float) -> dict[str, int]:
    """Stops unless the answers are equal, except for a share, whose tokens may tie up to rounding; counts those."""
    differ = {}
    for name, side in sides.items():
        found, _ = side(max_tokens)
        other = [number for number, tokens in expected.items() if found[number] != tokens]
        print(f"{name}: {len(other)} answers differ", flush=True)
        if len(other) > len(expected) * may_differ:
            raise SystemExit("they are not equal: no timing would mean anything")
        differ[name] = len(other)
        side(max_tokens)
        side(1)  # compiles what this call needs
    return differ


def ours(
    loaded: LoadedModel, trees: Sequence[Tree], lengths: Sequence[int], slots: int, max_tokens: int
) -> dict[str, Side]:
    """Our decoding, with refilled slots and in whole batches."""
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
    """transformers' `generate` in one process, with a batch size.

    Args:
        which: of the batches, those that are decoded here.
    """

    def __init__(
        self,
        folder: Path,
        trees: Sequence[Tree],
        lengths: Sequence[int],
        size: int,
        threads: int,
        which: slice = slice(None),
    ):
        import torch
        from transformers import Qwen2_5_VLForConditionalGeneration

        self._torch, self._lengths = torch, lengths
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_num_threads(threads)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype="auto")
        self._model = model.eval().to(self._device)
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
            ends_B = self._torch.tensor([width + self._lengths[number] for number in batch], device=self._device)
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
        return {name: self._torch.from_numpy(array * 1).to(self._device) for name, array in made.items()}


class Processes:
    """`Theirs` with a thread in each of some processes, the batches shared out in turn; has to be closed."""

    def __init__(self, folder: Path, trees: Sequence[Tree], lengths: Sequence[int], size: int, processes: int):
        context = multiprocessing.get_context("spawn")
        self._pipes, self._started = [], []
        for first in range(processes):
            here, there = context.Pipe()
            which = slice(first, None, processes)
            self._started.append(
                context.Process(target=_serve, args=(there, folder, trees, lengths, size, which), daemon=True)
            )
            self._started[-1].start()
            self._pipes.append(here)

    def __call__(self, most: int) -> tuple[Answers, float]:
        for pipe in self._pipes:
            pipe.send(most)
        received = [pipe.recv() for pipe in self._pipes]
        found = {number: tokens for answers, _ in received for number, tokens in answers.items()}
        return found, sum(busy for _, busy in received)

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._started:
            process.join()


def _serve(
    pipe: Connection, folder: Path, trees: Sequence[Tree], lengths: Sequence[int], size: int, which: slice
) -> None:
    side = Theirs(folder, trees, lengths, size, 1, which)
    with contextlib.suppress(EOFError):  # the other end is gone
        while (most := pipe.recv()) is not None:
            pipe.send(side(most))


def fastest(
    folder: Path,
    trees: Sequence[Tree],
    lengths: Sequence[int],
    sizes: Sequence[int],
    max_tokens: int,
    one_process: bool,
) -> Side:
    """The fastest of transformers' batch sizes, with one process and, unless there is to be only one, with several."""
    cores = os.cpu_count()
    ways: dict[str, Callable[[int], Side]] = {
        f"1 process, {cores} threads": lambda size: Theirs(folder, trees, lengths, size, cores),
        f"{cores} processes": lambda size: Processes(folder, trees, lengths, size, cores),
    }
    if one_process:
        ways = dict(list(ways.items())[:1])
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
    """Seconds that a side took."""

    wall: float
    processor: float


def timed(side: Side, most: int) -> Taken:
    start, busy = time.perf_counter(), time.process_time()
    _, elsewhere = side(most)
    wall, here = time.perf_counter() - start, time.process_time() - busy
    return Taken(wall, max(here, elsewhere))  # one of the two works while the other waits


def interleaved(sides: dict[str, Side], rounds: int, max_tokens: int) -> dict[str, list[tuple[Taken, Taken]]]:
    """Seconds of each side in each round, up to the first tokens and in all; the order changes every round."""
    taken: dict[str, list[tuple[Taken, Taken]]] = {name: [] for name in sides}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for name in rng.permutation(list(sides)):
            taken[name].append((timed(sides[name], 1), timed(sides[name], max_tokens)))
    return taken


def report(taken: dict[str, list[tuple[Taken, Taken]]], posts: int, args: argparse.Namespace) -> None:
    """Prints the table: medians over the rounds, and each side as a multiple of ours in the same round."""
    print(f"{args.slots} slots, {args.rounds} rounds; {describe_machine()}")
    head = f"{'':14} {'posts/s':>8} {'first token':>12} {'the rest':>9} {'processor':>10}"
    print(f"{head}  as a multiple of refilled's (least-most)")
    for name, found in taken.items():
        first, whole = np.array(found).transpose(1, 2, 0)
        ratio = whole / np.array(taken["refilled"]).transpose(1, 2, 0)[1]
        ratios = (f"{np.median(each):.2f} ({each.min():.2f}-{each.max():.2f})" for each in ratio)
        wall, busy = np.median(whole, axis=1)
        begun = np.median(first[0])
        print(
            f"{name:14} {posts / wall:8.1f} {begun:10.1f} s {wall - begun:7.1f} s {busy:8.1f} s"
            f"  {next(ratios)}; of processor {next(ratios)}"
        )


if __name__ == "__main__":
    main()
