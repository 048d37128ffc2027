"""Cost of Dynamic CoT with the forest and with two passes, against Fine-tune-CoT on the same posts.

    python -m benchmarks.forest [--rounds=N] [--posts=N] [--rows=N] [--decisions]

Each is a whole jitted, donated train step (AdamW, frozen vision tower) over the same posts in the same rows, each in
the smallest rows that hold them. The two passes are the best variant found: packed, in one program, with the vision
tower's features shared between them; a line below times them without that too. Steps are interleaved, so that a noisy
machine disturbs all alike; the ratio is the median over rounds of the ratio within a round. On a CPU it is of processor
seconds, which other work on the machine disturbs less; elsewhere of seconds. Before timing, the forest's choices,
losses and gradient are checked to be those of the two passes.

`--decisions` times the forest's step under each decision and with content and mode apart instead, against the paper's.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.machine import describe_machine
from mmkp_jax.data.forest import Forest, RowSize, Tree, pack_rows, tree_size
from mmkp_jax.families.qwen2_5_vl.config import Qwen2_5_VLConfig, VisionConfig
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.families.qwen2_5_vl.processor import processor_of
from mmkp_jax.models.definition import define_from, flatten, random_params
from mmkp_jax.models.freezing import join_params, split_params
from mmkp_jax.ops.backends import RowAttention, backend_name
from mmkp_jax.training.decisions import DECISIONS, Threshold
from mmkp_jax.training.gamma import gamma_schedule
from mmkp_jax.training.objectives import Objective, objective
from mmkp_jax.training.optimizer import adamw
from mmkp_jax.training.step import forest_losses, init_state, make_train_step
from tests.support.two_pass import Pair, pack_pair, two_pass_loss

CONFIG = Qwen2_5_VLConfig(
    vocab_size=16_384,
    hidden_size=384,
    intermediate_size=1024,
    num_layers=6,
    num_heads=6,
    num_kv_heads=2,
    mrope_section=(8, 12, 12),
    image_token_id=16_000,
    tie_embeddings=True,
    vision=VisionConfig(
        depth=8,
        hidden_size=128,
        intermediate_size=342,
        num_heads=2,
        out_hidden_size=384,
        full_attention_layers=(7,),
    ),
)
"""A model with the 3B's proportions (one layer of eight of the tower with full attention), at 18M parameters."""

PROCESSOR = processor_of(CONFIG, {})
GRIDS = ((48, 48), (36, 64), (54, 42), (24, 42))
"""Patch counts of 680 x 680, 1200 x 675, 900 x 1200 and 500 x 281 pixels, at most 451,584 of them."""


def random_posts(n: int, seed: int) -> list[Tree]:
    """Posts of MMKP's lengths in random tokens: the CoT target has about 205 tokens (157 words in the paper's Table 7),
    the SFT target 6 (1.89 words and the end), the text about 30 and the prompt 45, an image 252 to 576."""
    rng = np.random.default_rng(seed)

    def draw(n: float) -> np.ndarray:
        return rng.integers(0, 15_000, max(2, round(n))).astype(np.int32)

    posts = []
    for _ in range(n):
        grid = GRIDS[rng.integers(len(GRIDS))]
        patches = rng.integers(0, 256, (grid[0] * grid[1], 588), np.uint8)
        image = np.full(grid[0] * grid[1] // 4, CONFIG.image_token_id, np.int32)
        prompt = np.concatenate([draw(20), image, draw(25 + rng.lognormal(3.3, 0.5))])
        posts.append(
            Tree(prompt, draw(rng.normal(6, 2)), draw(rng.normal(205, 40)), (PROCESSOR.layout_of(grid),), (patches,))
        )
    return posts


def smallest(rows: list[list[Tree]], targets: Callable[[Tree], list[int]]) -> RowSize:
    """The smallest rows that hold these trees with targets of these lengths."""
    sizes = [[tree_size(tree, PROCESSOR) for tree in row] for row in rows]

    def most(of: Callable[[Tree, RowSize], int]) -> int:
        return max(sum(map(of, row, row_sizes)) for row, row_sizes in zip(rows, sizes, strict=True))

    return RowSize(
        tokens=most(lambda tree, _: len(tree.prompt) - 1 + sum(targets(tree))),
        images={kind: most(lambda _, size, kind=kind: size.images[kind]) for kind in PROCESSOR.slots},
        labels=most(lambda tree, _: sum(targets(tree))),
        examples=max(map(len, rows)),
    )


def without_sft(tree: Tree) -> Tree:
    """The post as Fine-tune-CoT packs it."""
    return Tree(tree.prompt, tree.sft[:0], tree.cot, tree.layouts, tree.pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--posts", type=int, default=2, help="posts a row")
    parser.add_argument("--rows", type=int, default=2, help="rows a step")
    parser.add_argument("--decisions", action="store_true", help="time every decision instead")
    args = parser.parse_args()

    posts = random_posts(args.posts * args.rows, seed=0)
    rows = [posts[i :: args.rows] for i in range(args.rows)]
    on_cpu = jax.default_backend() == "cpu"
    dtype = jnp.float32 if on_cpu else jnp.bfloat16
    definition = define_from(FAMILY, CONFIG, attention=RowAttention(backend_name("auto", jax.default_backend())))
    params = random_params(definition, 0, spread=0.05)
    optimizer = adamw(optax.constant_schedule(5e-5), b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.01, clip_norm=1.0)

    both = smallest(rows, lambda tree: [len(tree.sft), len(tree.cot)])
    own = smallest(rows, lambda tree: [len(tree.cot)])
    short = smallest(rows, lambda tree: [len(tree.sft)])
    longer = smallest(rows, lambda tree: [max(len(tree.sft), len(tree.cot))])
    forest = pack_rows(rows, both, PROCESSOR)
    cot_only = pack_rows([[without_sft(tree) for tree in row] for row in rows], own, PROCESSOR)
    pair = pack_pair(rows, short, longer, PROCESSOR)

    losses = jax.jit(lambda p: forest_losses(definition, p, forest, examples=both.examples, dtype=dtype))(params)
    gamma = float(np.median(losses.sft_BS))  # half of the posts train on each target
    check_equal(definition, params, forest, pair, gamma, dtype)

    def forest_step(objective: Objective, examples: int):
        schedule = gamma_schedule("fixed", gamma)
        return make_train_step(definition, optimizer, objective, schedule, examples=examples, dtype=dtype)

    if args.decisions:
        train = {f"decision {name}": objective("dyncot", decision=name) for name in DECISIONS}
        train["decoupled"] = objective("decoupled", decision="mode_free")
        steps = {name: (forest_step(each, both.examples), with_steps(forest)) for name, each in train.items()}
        seconds = time_interleaved(steps, params, optimizer, gamma, args.rounds)
        report(seconds, dict.fromkeys(steps, both), short, longer, len(posts), args)
        return
    steps = {
        "Fine-tune-CoT": (forest_step(objective("cot"), own.examples), with_steps(cot_only)),
        "Dynamic CoT, forest": (forest_step(objective("dyncot"), both.examples), with_steps(forest)),
        "Dynamic CoT, two passes": (two_pass_step(definition, optimizer, gamma, dtype, share=True), pair),
        "  features not shared": (two_pass_step(definition, optimizer, gamma, dtype, share=False), pair),
    }
    seconds = time_interleaved(steps, params, optimizer, gamma, args.rounds)
    report(seconds, {"Fine-tune-CoT": own, "Dynamic CoT, forest": both}, short, longer, len(posts), args)


def with_steps(forest: Forest) -> Forest:
    """A batch with one micro-batch."""
    return jax.tree.map(lambda a: a[None], forest)


def two_pass_step(definition, optimizer, gamma: float, dtype, *, share: bool):
    """Two-pass Dynamic CoT as a train step over the same kind of state."""

    def step(state, pair: Pair):
        def loss(trainable):
            params = join_params(trainable, state["frozen"])
            total, _ = two_pass_loss(definition, params, pair, gamma, dtype=dtype, share_features=share)
            return total / jnp.sum(pair.first.segment_BT.max(axis=1))

        value, gradient = jax.value_and_grad(loss)(state["trainable"])
        updates, optimizer_state = optimizer.update(gradient, state["optimizer"], state["trainable"])
        trainable = optax.apply_updates(state["trainable"], updates)
        return {**state, "trainable": trainable, "optimizer": optimizer_state, "step": state["step"] + 1}, {
            "loss": value,
            "grad_norm": optax.tree.norm(gradient),
        }

    return step


def check_equal(definition, params, forest: Forest, pair: Pair, gamma: float, dtype) -> None:
    """Stops unless the forest has the choices, losses and gradient of the two passes (1e-5; in bf16 5e-2)."""
    choose = objective("dyncot")

    def by_forest(params):
        examples = pair.has_cot_BS.shape[1]
        choice = choose(forest_losses(definition, params, forest, examples=examples, dtype=dtype), Threshold(gamma))
        return choice.loss_BS.sum(), (choice.loss_BS, choice.on_cot_BS)

    def by_two_passes(params):
        return two_pass_loss(definition, params, pair, gamma, dtype=dtype)

    (_, (loss, on_cot)), gradient = jax.jit(jax.value_and_grad(by_forest, has_aux=True))(params)
    (_, (loss2, on_cot2)), gradient2 = jax.jit(jax.value_and_grad(by_two_passes, has_aux=True))(params)
    gradient, gradient2 = flatten(gradient), flatten(gradient2)
    whole = np.sqrt(sum(np.square(leaf).sum() for leaf in gradient2.values()))
    error = max(float(np.linalg.norm(gradient[path] - leaf)) for path, leaf in gradient2.items()) / whole
    loss_error = float(np.abs(loss / loss2 - 1).max())
    bound = 1e-5 if dtype == jnp.float32 else 5e-2
    print(f"forest against two passes: {int((on_cot != on_cot2).sum())} choices differ, ", end="")
    print(f"losses by {loss_error:.1e}, gradient by {error:.1e} of its norm; {int(on_cot.sum())} posts on CoT")
    if (on_cot != on_cot2).any() or max(loss_error, error) > bound:
        raise SystemExit("they are not equal: no timing would mean anything")


def time_interleaved(steps: dict, params, optimizer, gamma: float, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and processor seconds of each step in each round; the order changes every round."""
    running = {}
    for name, (step, batch) in steps.items():
        trainable, frozen = split_params(jax.tree.map(jnp.array, params), FAMILY.paths(["tower"]))
        state = init_state(trainable, frozen, optimizer, gamma_schedule("fixed", gamma))
        compiled = jax.jit(step, donate_argnums=0)
        state, *_ = jax.block_until_ready(compiled(state, batch))
        running[name] = [compiled, state, jax.device_put(batch)]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for name in rng.permutation(list(steps)):
            compiled, state, batch = running[name]
            start, busy = time.perf_counter(), time.process_time()
            state, *_ = jax.block_until_ready(compiled(state, batch))
            seconds[name].append((time.perf_counter() - start, time.process_time() - busy))
            running[name][1] = state
    return seconds


def report(seconds: dict, sizes: dict, short: RowSize, longer: RowSize, posts: int, args) -> None:
    """Prints the table: seconds a step, posts a second, and each as a multiple of the first one in the same round."""
    first = next(iter(seconds))
    print(f"{posts} posts a step in {args.rows} rows, {args.rounds} rounds; {describe_machine()}")
    print(f"{'':26} {'tokens a row':>14} {'s/step':>8} {'posts/s':>8} {f'of {first}':>17} {'(quartiles)':>15}")
    clock = 1 if jax.default_backend() == "cpu" else 0
    base = [each[clock] for each in seconds[first]]
    for name, taken in seconds.items():
        ratios = [one[clock] / other for one, other in zip(taken, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        tokens = str(sizes[name].tokens) if name in sizes else f"{short.tokens} + {longer.tokens}"
        typical = statistics.median(each[0] for each in taken)
        line = f"{name:26} {tokens:>14} {typical:8.3f} {posts / typical:8.2f} {middle:17.3f}"
        print(line + f" {low:7.3f}-{high:.3f}")


if __name__ == "__main__":
    main()
