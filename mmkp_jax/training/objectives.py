"""Training strategies: from an example's losses under its two targets to its training loss.

B rows, S examples a row. Losses are nats a label. Paper: arXiv 2510.09358.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmkp_jax.data.forest import COT, SFT, Forest
from mmkp_jax.errors import InputError, nearest


class Losses(NamedTuple):
    """Losses of each example under its two targets; 0 where the target is absent."""

    sft_BS: jax.Array
    """Mean NLL of the SFT target's labels (eq. 2, over the target only)."""
    cot_BS: jax.Array
    """Mean NLL of the CoT target's labels (eq. 3)."""
    has_sft_BS: jax.Array
    has_cot_BS: jax.Array


class Choice(NamedTuple):
    """The training loss of each example."""

    loss_BS: jax.Array
    """Training loss; 0 where the example does not count."""
    counts_BS: jax.Array
    """Whether the example is part of the step's mean (bool)."""
    on_cot_BS: jax.Array
    """Whether only the CoT target gets a gradient (bool)."""


Objective = Callable[[Losses, jax.Array], Choice]
"""A function `(losses, γ) -> choice`."""


def example_losses(nll_BM: jax.Array, forest: Forest, examples: int) -> Losses:
    """Mean losses over each example's labels, from `nll_BM` at the label slots; `examples` is S, a static number.

    Slots of weight 0 are masked before the division, so padding has a finite loss and gradient.
    """
    segment_BM = jnp.take_along_axis(forest.segment_BT, forest.label_slot_BM, axis=1)
    branch_BM = jnp.take_along_axis(forest.branch_BT, forest.label_slot_BM, axis=1)
    nll_BM = jnp.where(forest.weight_BM > 0, nll_BM * forest.weight_BM, 0)

    def mean(branch: int) -> tuple[jax.Array, jax.Array]:
        of_BMS = (segment_BM[..., None] == 1 + jnp.arange(examples)) & (branch_BM[..., None] == branch)
        labels_BS = jnp.where(of_BMS, forest.weight_BM[..., None], 0).sum(axis=1)
        total_BS = jnp.where(of_BMS, nll_BM[..., None], 0).sum(axis=1)
        return total_BS / jnp.where(labels_BS > 0, labels_BS, 1), labels_BS > 0

    (sft_BS, has_sft_BS), (cot_BS, has_cot_BS) = mean(SFT), mean(COT)
    return Losses(sft_BS, cot_BS, has_sft_BS, has_cot_BS)


def sft(losses: Losses, gamma: jax.Array) -> Choice:
    """SFT: the keyphrases alone."""
    return Choice(losses.sft_BS, losses.has_sft_BS, jnp.zeros_like(losses.has_sft_BS))


def cot(losses: Losses, gamma: jax.Array) -> Choice:
    """Fine-tune-CoT: the chain of thought alone; an example without one does not count."""
    return Choice(losses.cot_BS, losses.has_cot_BS, losses.has_cot_BS)


def multitask(losses: Losses, gamma: jax.Array, *, weight: float = 0.5) -> Choice:
    """Both targets, at `weight` and 1 - `weight`; without a chain of thought, the SFT target at weight 1."""
    both_BS = weight * losses.sft_BS + (1 - weight) * losses.cot_BS
    loss_BS = jnp.where(losses.has_cot_BS, both_BS, losses.sft_BS)
    return Choice(loss_BS, losses.has_sft_BS, jnp.zeros_like(losses.has_sft_BS))


def dyncot(losses: Losses, gamma: jax.Array) -> Choice:
    """Dynamic CoT (eq. 4-5): the CoT target where the SFT loss is below γ, else (and at a tie) the SFT target.

    No gradient flows through the decision; an example without a chain of thought keeps its SFT target.
    """
    decision_BS = jax.lax.stop_gradient(losses.sft_BS)
    on_cot_BS = losses.has_cot_BS & (decision_BS < gamma)
    return Choice(jnp.where(on_cot_BS, losses.cot_BS, losses.sft_BS), losses.has_sft_BS, on_cot_BS)


OBJECTIVES = {"sft": sft, "cot": cot, "multitask": multitask, "dyncot": dyncot}
STRATEGIES = ("zeroshot", *OBJECTIVES)

OWN_BRANCHES = {"sft": (SFT,), "cot": (COT,), "multitask": (SFT, COT), "dyncot": (SFT, COT)}
"""Branches that each strategy learns from, for `pack_for="own"`."""


def objective(strategy: str, *, multitask_weight: float = 0.5) -> Objective:
    """The objective of a strategy that trains.

    Raises:
        InputError: the strategy is unknown, or is zero-shot, which has nothing to train.
    """
    if strategy == "zeroshot":
        raise InputError("strategy 'zeroshot' trains nothing", "config.strategy", "evaluate the checkpoint as it is")
    if strategy not in OBJECTIVES:
        raise InputError(
            f"unknown strategy {strategy!r}{nearest(strategy, STRATEGIES)}",
            "config.strategy",
            f"choose one of {', '.join(STRATEGIES)}",
        )
    if strategy == "multitask":
        return lambda losses, gamma: multitask(losses, gamma, weight=multitask_weight)
    return OBJECTIVES[strategy]
