"""What is saved where prompts share their prefill: whole prompts, and the opening that all have in common.

    python -m benchmarks.shared [--posts=N] [--rounds=N] [--slots=N] [--max_tokens=N] [--pocket=DIR]

First a table, for which nothing is decoded: of each family the opening that all prompts of posts with an image have in
common (of a family without images: all prompts), by the chat template of its pocket variant and a tokenizer of that
size; and its share of the FLOPs of the prefill of a typical post, image included, in the published geometry. Pocket's
tokenizers write the opening in no fewer tokens than the published ones: the share is an upper bound. `second` is the
share that a second prefill has in all FLOPs of a typical post's two answers, the longer of them with reasoning.

Then each post of pocket (text and image) is answered in the modes direct and think, greedily, by pocket's model
in float32: with the prompt of a post prefilled once, and once for each mode. Both are given the same numbers of
tokens: of `benchmarks.decoding` for what reasons, and 1 to 4 for what does not. Answers are compared before anything is
timed, the rounds are interleaved, and processor seconds say how much work it was. `prefill` is the same with one token
an answer. Slots are on one CPU device.
"""

import argparse
import importlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.decoding import DIRECT, POCKET, draw_lengths, timed
from benchmarks.machine import describe_machine
from mmkp_jax.data.examples import Recipe, measured_tree, tree_of
from mmkp_jax.data.posts import Record, read_jsonl
from mmkp_jax.data.prompts import chain_opening
from mmkp_jax.data.shards import record_of
from mmkp_jax.decoding.generate import Generator
from mmkp_jax.decoding.prompts import name_trunk, prompt_of
from mmkp_jax.families.registry import define, known_config
from mmkp_jax.inference.load_model import LoadedModel, load_model
from mmkp_jax.models.definition import Definition
from mmkp_jax.models.family import Work
from mmkp_jax.models.flops import products_of, tree_pairs
from mmkp_jax.models.sharding import make_mesh
from mmkp_jax.pocket.make import make_pocket
from mmkp_jax.pocket.variants import make_variant

PUBLISHED = {
    "": "Qwen/Qwen2.5-VL-3B-Instruct",
    "internvl3": "OpenGVLab/InternVL3-2B-hf",
    "mllama": "meta-llama/Llama-3.2-11B-Vision-Instruct",
    "qwen2_5": "Qwen/Qwen2.5-3B-Instruct",
    "llama3_2": "meta-llama/Llama-3.2-3B-Instruct",
}
"""A published model for each pocket variant's module; the first is pocket's own."""

MODES = ("direct", "think")
SPREAD = 0.25
"""Standard deviation of the tokens of what reasons, as a share of their mean."""

Answers = dict[tuple[int, str], list[int]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3, help="0: the table alone")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--max_tokens", type=int, default=384)
    parser.add_argument("--pocket", type=Path, default=POCKET, help="a pocket; made if it is not there")
    args = parser.parse_args(arguments)
    make_pocket(args.pocket)
    posts = list(read_jsonl(args.pocket / "posts" / "train.jsonl"))[: args.posts]
    records = [record_of(post, args.pocket / "images") for post in posts]
    print(describe_machine())
    print(f"{'':42} {'opening':>8} {'trunk':>6} {'pocket trunk':>13} {'of prefill':>12} {'second':>12}")
    for maker, name in PUBLISHED.items():
        print_opening(name, recipe_of(maker, args.pocket), records)
    print(flush=True)
    if args.rounds:
        compare(load_model(str(args.pocket / "model")), records, args)


def recipe_of(maker: str, pocket: Path) -> Recipe:
    """How the pocket variant takes posts."""
    if not maker:
        return load_model(str(pocket / "model")).recipe
    variant = importlib.import_module(f"mmkp_jax.pocket.{maker}").VARIANT
    make_variant(variant, pocket)
    return load_model(str(pocket.parent / variant.name / "model")).recipe


def print_opening(name: str, recipe: Recipe, records: Sequence[Record]) -> None:
    """A row of the table: tokens of the opening, of the typical trunk and of pocket's, and the share of FLOPs."""
    takes_images = recipe.processor.image_token is not None
    prompts = [measured_tree(each, recipe).prompt.tolist() for each in records if each.image or not takes_images]
    alike = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    common = len(list(alike))
    if takes_images:
        common = min(common, prompts[0].index(recipe.processor.image_token))  # the pixels differ
    definition = define(known_config(name))
    family, processor = definition.family, definition.processor
    post = family.typical(processor)
    slots = np.asarray([[post[kind] for kind in processor.slots]])

    def flops(trunk: float, *answers: float) -> float:
        tokens = trunk + sum(answers)
        images = processor.work_of_posts(slots, np.asarray([tokens]))
        return flops_of(definition, Work(tokens, sum(answers), float(tree_pairs(trunk, *answers)), images))

    prefill, all_once = flops(post["trunk"]), flops(post["trunk"], post["sft"], post["cot"])
    nothing = {kind: 0.0 for kind in processor.work_of_posts(slots, np.asarray([0.0]))}
    opening = flops_of(definition, Work(common, 0, float(tree_pairs(common)), nothing))
    mean = np.mean([len(each) - 1 for each in prompts])
    row = f"{name:42} {common:8} {post['trunk']:6.1f} {mean:13.1f} {opening / prefill:12.1%}"
    print(f"{row} {prefill / (all_once + prefill):12.1%}", flush=True)


def flops_of(definition: Definition, work: Work) -> float:
    """Of a forward pass."""
    return sum(each.flops for each in products_of(definition, work))


def compare(loaded: LoadedModel, records: Sequence[Record], args: argparse.Namespace) -> None:
    """Times both ways of answering each post in each of `MODES`, and prints medians and ratios."""
    processor = loaded.recipe.processor
    trees = [tree_of(each, loaded.recipe, ()) for each in records]
    rng, long = np.random.default_rng(1), draw_reasoned(len(trees), args.max_tokens)
    lengths = {"direct": rng.choice(DIRECT, len(trees)).tolist(), "think": long}
    asked = [(number, mode) for number in range(len(trees)) for mode in MODES]
    prompts = []
    for number, mode in asked:
        tree, record = trees[number], records[number]
        trunk = name_trunk(tree.prompt, [record.image] if tree.layouts else [])
        prompt = prompt_of(str(number), tree, processor)
        prompts.append(prompt._replace(mode=mode, trunk=trunk, most_tokens=lengths[mode][number]))
    settings = dict(slots=args.slots, stop_tokens=(), dtype=loaded.dtype, opening=chain_opening(loaded.recipe.template))
    mesh = make_mesh({}, jax.devices()[:1])
    generators = {
        most: Generator(loaded.definition, mesh, answer_tokens=most, sync_every=min(8, most), **settings)
        for most in (1, args.max_tokens)
    }

    def answered(is_shared: bool, most: int) -> Answers:
        given = prompts if is_shared else [prompt._replace(trunk=b"") for prompt in prompts]
        found = generators[most](loaded.params, given, lambda which: trees[asked[which][0]])
        return {asked[each.prompt]: each.tokens for each in found}

    sides = {
        "a prefill a mode": lambda most: (answered(False, most), 0.0),
        "a prefill a post": lambda most: (answered(True, most), 0.0),
    }
    for most in generators:  # twice: the cache grows the first time
        apart, shared = ([side(most)[0] for _ in range(2)][1] for side in sides.values())
        if apart != shared:
            raise SystemExit("the answers are not equal: no timing would mean anything")
    tokens = sum(map(len, apart.values()))
    print(f"{len(trees)} posts, {len(asked)} answers of {tokens / len(asked):.1f} tokens, which are equal", flush=True)
    taken = {name: [] for name in sides}
    for number in range(args.rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            taken[name].append([timed(sides[name], most) for most in generators])
    print(f"{args.slots} slots, {args.rounds} rounds; {describe_machine()}")
    ratios = "times the first's time; its processor seconds; those of prefill"
    print(f"{'':16} {'posts/s':>8} {'processor':>10} {'of it prefill':>14}  {ratios}")
    first = np.array(taken[next(iter(sides))])
    for name, found in taken.items():  # [round, prefill and whole, wall and processor]
        times, ratio = np.median(found, axis=0), np.array(found) / first
        kinds = (ratio[:, 1, 0], ratio[:, 1, 1], ratio[:, 0, 1])
        ratios = "; ".join(f"{np.median(each):.2f} ({each.min():.2f}-{each.max():.2f})" for each in kinds)
        rate = len(trees) / times[1, 0]
        print(f"{name:16} {rate:8.2f} {times[1, 1]:8.1f} s {times[0, 1]:12.1f} s  {ratios}")


def draw_reasoned(posts: int, max_tokens: int) -> list[int]:
    """Tokens of answers that all reason, as `benchmarks.decoding` draws them."""
    return [length for length in draw_lengths(4 * posts, SPREAD, max_tokens) if length not in DIRECT][:posts]


if __name__ == "__main__":
    main()
