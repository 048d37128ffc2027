"""Schedules of γ, the threshold of Dynamic CoT: fixed, or following the SFT loss of the posts seen so far.

γ is constant within an optimizer step and updated once after it, so it depends on earlier posts only. The state is a
pair of scalars; before the first update an adaptive γ is 0, and since no NLL is below 0 every post takes SFT.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmkp_jax.errors import InputError, nearest

MODES = ("fixed", "mean", "ema")

GammaState = dict[str, jax.Array]
"""State of the schedule: `gamma` (float32, nats a label) and `posts` (int32, the number of posts seen)."""


class GammaSchedule(NamedTuple):
    """A schedule of γ: fixed, the mean over all posts so far (the paper's "avg"), or a moving mean over steps."""

    mode: str
    gamma: float
    ema_decay: float


def gamma_schedule(mode: str, gamma: float = 0.4, ema_decay: float = 0.99) -> GammaSchedule:
    """A checked schedule; `gamma` is used by `fixed` (0.4 for every model in the paper), `ema_decay` by `ema`.

    Raises:
        InputError: unknown mode, or a decay outside [0, 1).
    """
    if mode not in MODES:
        raise InputError(
            f"unknown γ mode {mode!r}{nearest(mode, MODES)}",
            "config.gamma_mode",
            f"choose one of {', '.join(MODES)}",
        )
    if not 0 <= ema_decay < 1:
        raise InputError(f"decay {ema_decay} is outside [0, 1)", "config.gamma_ema_decay", "try 0.99")
    return GammaSchedule(mode, float(gamma), float(ema_decay))


def init_gamma(schedule: GammaSchedule) -> GammaState:
    """γ before the first step."""
    start = schedule.gamma if schedule.mode == "fixed" else 0.0
    return {"gamma": jnp.float32(start), "posts": jnp.int32(0)}


def update_gamma(schedule: GammaSchedule, state: GammaState, loss_sum: jax.Array, posts: jax.Array) -> GammaState:
    """γ after a step over `posts` posts whose SFT losses, each weighing the same, add up to `loss_sum`.

    A step without posts, or with a loss that is not finite, leaves γ unchanged.
    """
    seen = state["posts"] + posts.astype(jnp.int32)
    if schedule.mode == "fixed":
        return {"gamma": state["gamma"], "posts": seen}
    share = posts / jnp.maximum(seen, 1)  # the step's weight in a mean over all posts
    if schedule.mode == "ema":
        share = jnp.where(state["posts"] == 0, 1.0, 1 - schedule.ema_decay)
    moved = state["gamma"] + share * (loss_sum / jnp.maximum(posts, 1) - state["gamma"])
    counts = (posts > 0) & jnp.isfinite(loss_sum)
    return {
        "gamma": jnp.where(counts, moved, state["gamma"]).astype(jnp.float32),
        "posts": jnp.where(counts, seen, state["posts"]),
    }
