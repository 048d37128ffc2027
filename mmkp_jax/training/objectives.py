"""Training strategies: from an example's losses under its two targets to its training loss.

B rows, S examples a row. Losses are nats a label. Paper: arXiv 2510.09358.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmkp_jax.data.forest import COT, SFT
from mmkp_jax.errors import InputError, nearest
from mmkp_jax.training.decisions import DECISIONS, Decision, Threshold, decide, decision_named
from mmkp_jax.training.losses import Losses, chain_loss, keyphrase_loss, log_direct

LEAST_SHARE = 0.05
"""Bound of a mode's share in its weight under `decoupled`, which is at most ten times that of balanced modes."""


class Choice(NamedTuple):
    """The training loss of each example."""

    loss_BS: jax.Array
    """Training loss; 0 where the example does not count."""
    counts_BS: jax.Array
    """Whether the example is part of the step's mean (bool)."""
    on_cot_BS: jax.Array
    """Whether the strategy, or its decision, puts it on CoT (bool)."""
    number_BS: jax.Array
    """What γ is compared with, and follows."""


Objective = Callable[[Losses, Threshold], Choice]
"""A function `(losses, threshold) -> choice`."""


def sft(losses: Losses, threshold: Threshold) -> Choice:
    """SFT: the keyphrases alone."""
    return Choice(losses.sft_BS, losses.has_sft_BS, jnp.zeros_like(losses.has_sft_BS), losses.sft_BS)


def cot(losses: Losses, threshold: Threshold) -> Choice:
    """Fine-tune-CoT: the chain of thought alone; an example without one does not count."""
    return Choice(losses.cot_BS, losses.has_cot_BS, losses.has_cot_BS, losses.sft_BS)


def multitask(losses: Losses, threshold: Threshold, *, weight: float = 0.5) -> Choice:
    """Both targets, at `weight` and 1 - `weight`; without a chain of thought, the SFT target at weight 1."""
    both_BS = weight * losses.sft_BS + (1 - weight) * losses.cot_BS
    loss_BS = jnp.where(losses.has_cot_BS, both_BS, losses.sft_BS)
    return Choice(loss_BS, losses.has_sft_BS, jnp.zeros_like(losses.has_sft_BS), losses.sft_BS)


def dyncot(losses: Losses, threshold: Threshold, *, decision: Decision = DECISIONS["paper"]) -> Choice:
    """Dynamic CoT (eq. 4-5): the CoT target where the decision says so, else the SFT target.

    By the paper's decision that is where the SFT loss is below γ. No gradient flows through the decision; an example
    without a chain of thought keeps its SFT target.
    """
    number_BS, on_cot_BS = decide(decision, losses, threshold)
    return Choice(jnp.where(on_cot_BS, losses.cot_BS, losses.sft_BS), losses.has_sft_BS, on_cot_BS, number_BS)


def decoupled(
    losses: Losses,
    threshold: Threshold,
    *,
    decision: Decision = DECISIONS["paper"],
    weight: float = 0.5,
    mode_weight: float = 0.25,
) -> Choice:
    """Content and mode apart: both targets' contents are learnt, and the decision only labels the mode.

    The loss is `weight` L_kp + (1 - `weight`) L_chain + `mode_weight` w_m CE(m; P(think)), where m is the decision and
    w_m = 0.5 / share of m, as a moving average: the rarer mode weighs more. No gradient flows through m and w_m. An
    example whose targets begin with the same token has no mode term; one without a chain of thought keeps its SFT loss.
    """
    number_BS, thinks_BS = decide(decision, losses, threshold)
    share = jnp.clip(threshold.share, LEAST_SHARE, 1 - LEAST_SHARE)
    mode_BS = jnp.where(thinks_BS, losses.think_BS / share, -log_direct(losses) / (1 - share))
    content_BS = weight * keyphrase_loss(losses) + (1 - weight) * chain_loss(losses)
    loss_BS = content_BS + 0.5 * mode_weight * mode_BS
    return Choice(jnp.where(losses.has_cot_BS, loss_BS, losses.sft_BS), losses.has_sft_BS, thinks_BS, number_BS)


OBJECTIVES = {"sft": sft, "cot": cot, "multitask": multitask, "dyncot": dyncot, "decoupled": decoupled}
STRATEGIES = ("zeroshot", *OBJECTIVES)

OWN_BRANCHES = {"sft": (SFT,), "cot": (COT,), **dict.fromkeys(("multitask", "dyncot", "decoupled"), (SFT, COT))}
"""Branches that each strategy learns from, for `pack_for="own"`."""


def objective(
    strategy: str, *, decision: str = "paper", multitask_weight: float = 0.5, mode_weight: float = 0.25
) -> Objective:
    """The objective of a strategy that trains; `decision` is one of `DECISIONS`, for those that make one.

    Raises:
        InputError: the strategy or decision is unknown, or is zero-shot, which has nothing to train.
    """
    if strategy == "zeroshot":
        raise InputError("strategy 'zeroshot' trains nothing", "config.strategy", "evaluate the checkpoint as it is")
    if strategy not in OBJECTIVES:
        raise InputError(
            f"unknown strategy {strategy!r}{nearest(strategy, STRATEGIES)}",
            "config.strategy",
            f"choose one of {', '.join(STRATEGIES)}",
        )
    options = {
        "multitask": {"weight": multitask_weight},
        "dyncot": {"decision": decision_named(decision)},
        "decoupled": {
            "decision": decision_named(decision),
            "weight": multitask_weight,
            "mode_weight": mode_weight,
        },
    }
    return functools.partial(OBJECTIVES[strategy], **options.get(strategy, {}))
