"""Decisions: which posts are put on their chain of thought, by comparing a number of each post with γ.

B rows, S examples a row. A decision reads what the forward pass has already; no gradient flows through it. Paper:
arXiv 2510.09358; its decision puts the easy posts on CoT.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.training.losses import Losses, keyphrase_loss


class Threshold(NamedTuple):
    """What a step compares with, the same for all of its posts."""

    gamma: jax.Array
    """γ, float32 scalar: nats a label, or the probability of the random decisions."""
    share: jax.Array | float = 0.5
    """Moving average of the share of posts on CoT (`gamma.GammaSchedule.tracks_share`)."""
    keys: jax.Array | None = None
    """Two keys: the step's, and the run's."""


Number = Callable[[Losses, Threshold], jax.Array]
"""A function `(losses, threshold) -> the number of each post that is compared with γ` [B, S]."""


class Decision(NamedTuple):
    """A number of each post, and on which side of γ it means CoT."""

    number: Number
    above: bool = False
    """CoT where the number is γ or more, in place of below γ."""
    is_random: bool = False
    """Whether the number is uniform in [0, 1), so that γ is the probability of CoT."""


def sft_loss(losses: Losses, threshold: Threshold) -> jax.Array:
    """The SFT loss (eq. 5), of which the choice between direct answer and thinking is a part."""
    return losses.sft_BS


def direct_loss(losses: Losses, threshold: Threshold) -> jax.Array:
    """The keyphrases' loss given a direct answer, which that choice is no part of."""
    return keyphrase_loss(losses)


def coin_of_step(losses: Losses, threshold: Threshold) -> jax.Array:
    """A uniform number by seed, step and post: the same on any mesh, and after a resume."""
    return _uniform(threshold.keys[0], losses.post_BS)


def coin_of_post(losses: Losses, threshold: Threshold) -> jax.Array:
    """A uniform number by seed and post, the same in every step."""
    return _uniform(threshold.keys[1], losses.post_BS)


def _uniform(key: jax.Array, post_BS: jax.Array) -> jax.Array:
    one = jax.vmap(lambda post: jax.random.uniform(jax.random.fold_in(key, post)))
    return one(post_BS.ravel()).reshape(post_BS.shape)


DECISIONS = {
    "paper": Decision(sft_loss),
    "mode_free": Decision(direct_loss),
    "inverse": Decision(sft_loss, above=True),
    "inverse_mode_free": Decision(direct_loss, above=True),
    "random": Decision(coin_of_step, is_random=True),
    "random_posts": Decision(coin_of_post, is_random=True),
}
"""The paper's, one without the first token's part, and controls: the other side of γ, and chance."""


def decision_named(name: str) -> Decision:
    """The decision of that name.

    Raises:
        InputError: there is none.
    """
    if name not in DECISIONS:
        what = f"unknown decision {name!r}{nearest(name, DECISIONS)}"
        raise InputError(what, "config.decision", f"choose one of {', '.join(DECISIONS)}")
    return DECISIONS[name]


class Decided(NamedTuple):
    """The outcome of a decision for each post."""

    number_BS: jax.Array
    """What was compared with γ."""
    on_cot_BS: jax.Array
    """Whether it chose CoT (bool); never without a CoT target."""


def decide(decision: Decision, losses: Losses, threshold: Threshold) -> Decided:
    """The decision for each post; at a tie with γ a post is not below it."""
    number_BS = jax.lax.stop_gradient(decision.number(losses, threshold))
    below_BS = number_BS < threshold.gamma
    return Decided(number_BS, losses.has_cot_BS & (~below_BS if decision.above else below_BS))


def step_keys(seed: int, step: jax.Array) -> jax.Array:
    """The keys of `Threshold.keys` for a step; [2]."""
    run = jax.random.fold_in(jax.random.key(seed), jnp.uint32(0xC015))  # apart from those of dropout
    return jnp.stack([jax.random.fold_in(run, step), run])
