"""The optimizer: the learning-rate schedule and AdamW."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmkp_jax.models.definition import Params, flatten, unflatten


def learning_rate(peak: float, *, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Linear warm-up over `warmup_length` steps (the first step already moves), then a cosine to 0 at `total_steps`."""
    warmup = warmup_length(warmup_steps, total_steps)
    return optax.warmup_cosine_decay_schedule(peak / (warmup + 1), peak, warmup, total_steps)


def warmup_length(warmup_steps: int, total_steps: int) -> int:
    """`warmup_steps`, or a tenth of a run that would end within them."""
    return warmup_steps if warmup_steps < total_steps else total_steps // 10


def adamw(
    schedule: optax.Schedule,
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
    moments_dtype: jnp.dtype = jnp.float32,
) -> optax.GradientTransformation:
    """AdamW behind clipping to a global norm; norms and biases do not decay.

    Args:
        moments_dtype: storage dtype of both moments between steps; they are computed in float32. In bfloat16 a moment
            moves only where a step changes it by more than 2^-9 of itself: fit for b2 of 0.95, not for 0.999.
    """
    decayed = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decay_mask)
    return optax.chain(clip_by_norm(clip_norm), with_state_dtype(moments_dtype, decayed))


def clip_by_norm(limit: float) -> optax.GradientTransformationExtraArgs:
    """`optax.clip_by_global_norm` in one multiplication, for a gradient whose `norm` the caller knows already."""

    def update(
        gradient: optax.Updates,
        state: optax.EmptyState,
        params: Params | None = None,
        *,
        norm: jax.Array | None = None,
        **_: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        norm = optax.tree.norm(gradient) if norm is None else norm
        factor = jnp.where(norm < limit, 1.0, limit / norm)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), gradient), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def with_state_dtype(dtype: jnp.dtype, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer, whose state's float32 arrays are stored as `dtype` between steps."""
    if dtype == jnp.float32:
        return optimizer

    def cast(state: optax.OptState, before: jnp.dtype, after: jnp.dtype) -> optax.OptState:
        return jax.tree.map(lambda leaf: leaf.astype(after) if leaf.dtype == before else leaf, state)

    def update(
        gradient: optax.Updates, state: optax.OptState, params: Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = optimizer.update(gradient, cast(state, dtype, jnp.float32), params)
        return updates, cast(state, jnp.float32, dtype)

    return optax.GradientTransformation(lambda params: cast(optimizer.init(params), jnp.float32, dtype), update)


def decay_mask(params: Params) -> Params:
    """Which parameters decay: all but norm scales and biases."""
    return unflatten({path: not path.endswith((".scale", ".bias")) for path in flatten(params)})
