"""Sliced attention against dense attention, the plain definition and PyTorch's; and pocket's train step with each.

    python -m benchmarks.attention [--rounds=N] [--steps=N]

First attention alone, forward and backward, a row of 634 tokens, 6 query heads of 64 and one key-value head, the rule
of the forest. Then whole jitted, donated train steps of Dynamic CoT on a full row of pocket's size and model, with the
limits of the run and without. All that
is compared is interleaved in one run, in an order that changes, and checked to be equal before it is timed. float32.
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
from configs.dyncot import get_config
from mmkp_jax.data.forest import Forest, RowSize, Tree, pack_rows, row_size
from mmkp_jax.families.qwen2_5_vl.config import Qwen2_5_VLConfig, VisionConfig
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.families.qwen2_5_vl.processor import processor_of
from mmkp_jax.models.definition import define_from, random_params
from mmkp_jax.models.freezing import split_params
from mmkp_jax.ops.attention import DENSE, Attention, forest_mask
from mmkp_jax.ops.backends import RowAttention
from mmkp_jax.ops.sliced import SLICED
from mmkp_jax.pocket.model import DECODER, TOWER
from mmkp_jax.training.gamma import gamma_schedule
from mmkp_jax.training.objectives import objective
from mmkp_jax.training.optimizer import adamw
from mmkp_jax.training.step import init_state, make_train_step
from tests.support.plain_attention import plain_attention

T, HEADS, KV_HEADS, WIDTH, TREE = 634, 6, 1, 64, 211

POCKET = Qwen2_5_VLConfig(
    vocab_size=2048,
    hidden_size=DECODER["hidden_size"],
    intermediate_size=DECODER["intermediate_size"],
    num_layers=DECODER["num_hidden_layers"],
    num_heads=DECODER["num_attention_heads"],
    num_kv_heads=DECODER["num_key_value_heads"],
    mrope_section=tuple(DECODER["rope_scaling"]["mrope_section"]),
    image_token_id=2000,
    tie_embeddings=True,
    vision=VisionConfig(
        depth=TOWER["depth"],
        hidden_size=TOWER["hidden_size"],
        intermediate_size=TOWER["intermediate_size"],
        num_heads=TOWER["num_heads"],
        out_hidden_size=DECODER["hidden_size"],
        full_attention_layers=tuple(TOWER["fullatt_block_indexes"]),
    ),
)


def plain(segment_BT, branch_BT) -> Attention:
    """Attention by its definition, with every score of the row, and JAX's own gradient."""
    mask = forest_mask(segment_BT, branch_BT)
    return lambda q, k, v: plain_attention(q, k, v, mask)


def sliced(segment_BT, branch_BT) -> Attention:
    """Sliced attention that knows the longest tree."""
    return SLICED.forest(segment_BT, branch_BT, TREE)


def in_jax(rule: Callable, args: list[np.ndarray], rows: tuple[np.ndarray, ...]) -> Callable[[], list]:
    """A function `() -> the output and the three gradients`."""

    @jax.jit
    def run(q, k, v, g, rows):
        out, pull = jax.vjp(rule(*rows), q, k, v)
        return out, *pull(g)

    on_device = jax.device_put((*args, rows))
    return lambda: jax.block_until_ready(run(*on_device))


def in_torch(args: list[np.ndarray], mask: np.ndarray) -> Callable[[], list] | None:
    """PyTorch's `scaled_dot_product_attention`; None where PyTorch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    q, k, v, g = (torch.from_numpy(a).transpose(1, 2).contiguous() for a in args)
    seen = torch.from_numpy(mask)[:, None]

    def run() -> list:
        leaves = [a.detach().requires_grad_() for a in (q, k, v)]
        each = [a.repeat_interleave(HEADS // a.shape[1], dim=1) for a in leaves]  # faster than its own grouping
        out = torch.nn.functional.scaled_dot_product_attention(*each, attn_mask=seen)
        out.backward(g)
        return [a.detach().transpose(1, 2).numpy() for a in (out, *(leaf.grad for leaf in leaves))]

    return run


def check(name: str, ours: list, reference: list, bound: float) -> None:
    """Stops unless each array equals the reference's, by its largest value."""
    error = max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())
        for a, b in zip(ours, reference, strict=True)
    )
    print(f"  {name} against the plain definition: {error:.1e} of the largest value")
    if not error <= bound:
        raise SystemExit("they are not equal: no timing would mean anything")


def timed(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for name in rng.permutation(list(sides)):
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title: str, seconds: dict[str, list[float]]) -> None:
    """Prints medians, least and most, and each side as a multiple of ours in the same round."""
    print(f"{title:44} {'ms, median':>10} {'least':>8} {'most':>8} {'times ours':>11}")
    for name, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(taken, seconds["ours"], strict=True))
        middle, least, most = (1e3 * each for each in (statistics.median(taken), min(taken), max(taken)))
        print(f"  {name:42} {middle:10.2f} {least:8.2f} {most:8.2f} {ratio:11.2f}")


def alone(rounds: int) -> None:
    """Times attention alone."""
    rng = np.random.default_rng(0)
    heads = (HEADS, KV_HEADS, KV_HEADS, HEADS)
    args = [rng.standard_normal((1, T, n, WIDTH), np.float32) for n in heads]
    branch = np.tile(np.repeat([0, 2, 1], [150, 57, 4]), 4)[None, :T]  # trees of TREE tokens: trunk, CoT, SFT
    rows = (1 + np.arange(T) // TREE)[None], branch
    sides = {
        "plain statement": in_jax(plain, args, rows),
        "ours": in_jax(sliced, args, rows),
        "sliced, trees of any length": in_jax(SLICED.forest, args, rows),
        "dense": in_jax(DENSE.forest, args, rows),
        "PyTorch's SDPA": in_torch(args, np.array(forest_mask(*map(jnp.asarray, rows)))),
    }
    sides = {name: side for name, side in sides.items() if side}
    reference = sides["plain statement"]()
    for name, side in list(sides.items())[1:]:
        check(name, side(), reference, 1e-5)
    report(f"attention, T {T}, {HEADS} heads of {WIDTH}, {KV_HEADS} key head", timed(sides, rounds))


def pocket_row() -> tuple[Forest, RowSize]:
    """A row of pocket's size, nearly full: posts of 16 to 64 patches and random tokens, as one micro-batch."""
    processor = processor_of(POCKET, {})
    size = row_size(get_config().row, processor)
    rng = np.random.default_rng(0)

    def tokens(n: int) -> np.ndarray:
        return rng.integers(0, 1900, n).astype(np.int32)

    trees = []
    for grid in ((8, 6), (6, 8), (8, 8), (4, 8)):
        patches = rng.integers(0, 256, (grid[0] * grid[1], 588), np.uint8)
        image = np.full(grid[0] * grid[1] // 4, POCKET.image_token_id, np.int32)
        trees.append(
            Tree(
                np.concatenate([tokens(8), image, tokens(22)]),
                tokens(5),
                tokens(38),
                (processor.layout_of(grid),),
                (patches,),
            )
        )
    return jax.tree.map(lambda a: a[None], pack_rows([trees], size, processor)), size


def steps(rounds: int) -> None:
    """Times whole train steps of pocket; everything trains."""
    batch, size = pocket_row()
    optimizer = adamw(optax.constant_schedule(6e-4), b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.01, clip_norm=1.0)
    schedule = gamma_schedule("fixed", 6.5)
    params = random_params(define_from(FAMILY, POCKET), 0, spread=0.05)
    print(f"  a row: {np.count_nonzero(batch.segment_BT)} of {size.tokens} tokens, 4 posts")
    running, sides, first = {}, {}, {}
    for name, attention in (
        ("dense", RowAttention("dense")),
        ("sliced, trees of any length", RowAttention()),
        ("ours", RowAttention("sliced", longest_tree=128, longest_image=64)),
    ):
        definition = define_from(FAMILY, POCKET, attention=attention)
        step = make_train_step(
            definition, optimizer, objective("dyncot"), schedule, examples=size.examples, dtype=jnp.float32
        )
        trainable, frozen = split_params(jax.tree.map(jnp.array, params), ())
        state = init_state(trainable, frozen, optimizer, schedule)
        compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
        print(f"  {name}: {compiled.memory_analysis().temp_size_in_bytes / 1e6:.1f} MB of temporaries")
        state, metrics, *_ = compiled(state, batch)
        first[name] = [np.asarray(metrics["loss"]), np.asarray(metrics["grad_norm"])]
        running[name] = state

        def run(name=name, compiled=compiled):
            running[name] = jax.block_until_ready(compiled(running[name], batch))[0]

        sides[name] = run
    check("the first step's loss and gradient norm, ours", first["ours"], first["dense"], 1e-5)
    report("a step of Dynamic CoT, pocket", timed(sides, rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="rounds of attention alone")
    parser.add_argument("--steps", type=int, default=40, help="train steps of each")
    args = parser.parse_args()
    print(describe_machine())
    alone(args.rounds)
    steps(args.steps)


if __name__ == "__main__":
    main()
