"""What each decision and each mode of γ costs a step of Dynamic CoT, next to the published rule with a fixed γ.

    python -m benchmarks.rules [--steps=N]

Whole jitted, donated train steps on a full row of pocket's size and model, everything training, in turns in an order
that changes; and the operations that the compiler counts in each, which no other work on the machine changes.
"""

import argparse
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from benchmarks.attention import POCKET, pocket_row, report, timed
from benchmarks.machine import describe_machine
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.models.definition import define_from, random_params
from mmkp_jax.models.freezing import split_params
from mmkp_jax.ops.backends import RowAttention
from mmkp_jax.training.decisions import DECISIONS
from mmkp_jax.training.gamma import gamma_schedule
from mmkp_jax.training.objectives import objective
from mmkp_jax.training.optimizer import adamw
from mmkp_jax.training.step import init_state, make_train_step

RULES = {
    "ours": ("dyncot", "paper", "fixed"),  # the name that `report` divides by
    **{name: ("dyncot", name, "fixed") for name in DECISIONS if name != "paper"},
    **{f"γ {mode}": ("dyncot", "paper", mode) for mode in ("mean", "ema", "quantile")},
    "decoupled": ("decoupled", "mode_free", "quantile"),
}
"""Strategy, decision and mode of γ."""

NEAR_CHANCE = 6.5
"""A γ near the loss of random parameters, so that some posts are on each target."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints operations of each rule's step, and medians of steps in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="steps of each, at least 1")
    args = parser.parse_args(arguments)
    if args.steps < 1:
        parser.error("--steps is at least 1")
    print(describe_machine())
    batch, size = pocket_row()
    optimizer = adamw(optax.constant_schedule(1e-4), b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.01, clip_norm=1.0)
    definition = define_from(FAMILY, POCKET, attention=RowAttention("sliced", longest_tree=128, longest_image=64))
    params = random_params(definition, 0, spread=0.05)
    running, sides, flops = {}, {}, {}
    for name, (strategy, decision, mode) in RULES.items():
        gamma = 0.5 if DECISIONS[decision].is_random else NEAR_CHANCE
        schedule = gamma_schedule(mode, gamma, tracks_share=strategy == "decoupled")
        step = make_train_step(
            definition,
            optimizer,
            objective(strategy, decision=decision),
            schedule,
            examples=size.examples,
            dtype=jnp.float32,
        )
        state = init_state(*split_params(jax.tree.map(jnp.array, params), ()), optimizer, schedule)
        compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
        flops[name] = compiled.cost_analysis()["flops"]
        running[name] = compiled(state, batch)[0]

        def run(name=name, compiled=compiled):
            running[name] = jax.block_until_ready(compiled(running[name], batch))[0]

        sides[name] = run
    for name, counted in flops.items():
        print(f"  {name:20} {counted / 1e6:12.3f} MFLOP a step, {100 * (counted / flops['ours'] - 1):+.4f}%")
    report("a step (ours: the published rule, γ fixed)", timed(sides, args.steps))


if __name__ == "__main__":
    main()
