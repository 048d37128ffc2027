"""Schedules of γ, with which a decision compares: fixed, following the posts' numbers, or keeping their share on CoT.

γ is constant within an optimizer step and updated once after it, so it depends on earlier posts only. The state is a
few scalars; before the first update a γ that moves is 0, and since no NLL is below 0 no post is below γ: in the first
step none is on CoT, or every one under an inverse decision.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmkp_jax.errors import InputError, nearest

MODES = ("fixed", "mean", "ema", "quantile")

QUANTILE_RATE = 0.1
"""η of `quantile`: the most by which log γ moves in a step."""

LEAST_GAMMA = 1e-6
"""Lower bound of γ under `quantile`, from which it can return."""

SHARE_DECAY = 0.99
"""Decay a step of the moving average of the share of posts on CoT."""

GammaState = dict[str, jax.Array]
"""State of the schedule: `gamma` (float32, nats a label) and `posts` (int32, the number of posts seen); under
`tracks_share` also `share` (float32)."""


class GammaSchedule(NamedTuple):
    """A schedule of γ.

    Its mode: fixed, the mean over all posts so far (the paper's "avg"), a moving mean over steps, or the quantile below
    which a given share of the posts with a chain of thought is.
    """

    mode: str
    gamma: float
    ema_decay: float
    share_below: float = 0.5
    """The share of posts below γ that `quantile` keeps."""
    tracks_share: bool = False
    """Whether the state has a moving average of the share of posts on CoT."""


class Seen(NamedTuple):
    """Sums over the posts of a step; float32 scalars."""

    number: jax.Array
    """What γ was compared with, of all posts with an SFT target."""
    posts: jax.Array
    """Posts with an SFT target."""
    below: jax.Array
    """Posts with a chain of thought that are below γ."""
    on_cot: jax.Array
    """Posts on CoT."""
    with_cot: jax.Array
    """Posts with a chain of thought."""


def gamma_schedule(
    mode: str,
    gamma: float = 0.4,
    ema_decay: float = 0.99,
    *,
    share_below: float = 0.5,
    tracks_share: bool = False,
) -> GammaSchedule:
    """A checked schedule.

    Args:
        gamma: γ under `fixed` (0.4 for every model in the paper).
        ema_decay: decay a step under `ema`.
        share_below: see `GammaSchedule`.
        tracks_share: see `GammaSchedule`.

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
    return GammaSchedule(mode, float(gamma), float(ema_decay), float(share_below), tracks_share)


def init_gamma(schedule: GammaSchedule) -> GammaState:
    """The state before the first step."""
    start = schedule.gamma if schedule.mode == "fixed" else 0.0
    share = {"share": jnp.float32(0.5)} if schedule.tracks_share else {}
    return {"gamma": jnp.float32(start), "posts": jnp.int32(0), **share}


def update_gamma(schedule: GammaSchedule, state: GammaState, seen: Seen) -> GammaState:
    """The state after a step; one without posts, or with a number that is not finite, leaves γ unchanged."""
    posts = state["posts"] + seen.posts.astype(jnp.int32)
    share = {"share": _moved_share(state["share"], seen)} if schedule.tracks_share else {}
    if schedule.mode == "fixed":
        return {"gamma": state["gamma"], "posts": posts, **share}
    counts = (seen.posts > 0) & jnp.isfinite(seen.number)
    return {
        "gamma": jnp.where(counts, _moved_gamma(schedule, state, seen, posts), state["gamma"]).astype(jnp.float32),
        "posts": jnp.where(counts, posts, state["posts"]),
        **share,
    }


def _moved_gamma(schedule: GammaSchedule, state: GammaState, seen: Seen, posts: jax.Array) -> jax.Array:
    gamma, mean = state["gamma"], seen.number / jnp.maximum(seen.posts, 1)
    if schedule.mode == "quantile":
        # stochastic approximation of a quantile (Robbins and Monro, 1951) in log γ, so that a step's size does not
        # depend on that of the losses, which fall by two orders of magnitude; it starts at the first posts' mean
        error = jnp.where(seen.with_cot > 0, schedule.share_below - seen.below / jnp.maximum(seen.with_cot, 1), 0)
        moved = jnp.where(gamma > 0, gamma * jnp.exp(QUANTILE_RATE * error), mean)
        return jnp.maximum(moved, LEAST_GAMMA)
    weight = seen.posts / jnp.maximum(posts, 1)  # the step's weight in a mean over all posts
    if schedule.mode == "ema":
        weight = jnp.where(state["posts"] == 0, 1.0, 1 - schedule.ema_decay)
    return gamma + weight * (mean - gamma)


def _moved_share(share: jax.Array, seen: Seen) -> jax.Array:
    moved = SHARE_DECAY * share + (1 - SHARE_DECAY) * seen.on_cot / jnp.maximum(seen.with_cot, 1)
    return jnp.where(seen.with_cot > 0, moved, share)
