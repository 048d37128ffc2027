"""The train step: every example's loss under both targets in one forward pass, then one optimizer step.

A micro-batches, B rows each, T tokens, M label slots, S examples a row.

A step whose loss or gradient is not finite changes nothing but `step`: its update is skipped.

The state is a plain nested dict: `step` (int32), `trainable` (float32), `frozen` (usually bf16, no optimizer state),
`optimizer`, `gamma` (`mmkp_jax.training.gamma`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmkp_jax.data.forest import Forest
from mmkp_jax.data.processor import Processor
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.models.features import given_features
from mmkp_jax.models.freezing import join_params
from mmkp_jax.ops.cross_entropy import label_nll
from mmkp_jax.training.decisions import Threshold, step_keys
from mmkp_jax.training.gamma import GammaSchedule, Seen, init_gamma, update_gamma
from mmkp_jax.training.losses import Losses, example_losses, keyphrase_loss, think_at_balance
from mmkp_jax.training.objectives import Choice, Objective

State = dict[str, Any]
Metrics = dict[str, jax.Array]


class Outcomes(NamedTuple):
    """What became of each example, [A, B, S]."""

    sft_BS: jax.Array
    """The SFT loss; 0 without an SFT target."""
    cot_BS: jax.Array
    """The CoT loss; 0 without a CoT target."""
    has_sft_BS: jax.Array
    on_cot_BS: jax.Array
    """Whether the strategy, or its decision, put it on CoT (bool)."""


Step = Callable[[State, Forest], tuple[State, Metrics, Outcomes]]
"""A pure function `(state, batch [A, B, ...]) -> (state, metrics, outcomes)`."""


def init_state(
    trainable: Params, frozen: Params, optimizer: optax.GradientTransformation, schedule: GammaSchedule
) -> State:
    """The state before the first step."""
    return {
        "step": jnp.int32(0),
        "trainable": trainable,
        "frozen": frozen,
        "optimizer": optimizer.init(trainable),
        "gamma": init_gamma(schedule),
    }


def forest_losses(
    definition: Definition,
    params: Params,
    forest: Forest,
    *,
    examples: int,
    dtype: jnp.dtype,
    dropout_key: jax.Array | None = None,
) -> Losses:
    """Every example's loss under each of its targets, from one forward pass over a batch [B, ...].

    Rows with features in place of pixels leave out the tower.

    Args:
        examples: S, the most examples a row may hold.
        dtype: the model's compute dtype; softmax and losses are float32 at least.
        dropout_key: key of the adapters' dropout; None for none.
    """
    model = definition.bind(params, dropout_key)
    features = given_features(definition, forest, dtype)
    hidden_BTD = model(forest, dtype) if features is None else model.decode(forest, features, dtype)
    nll_BM = label_nll(hidden_BTD, model.head, forest.label_slot_BM, forest.label_BM)
    return example_losses(nll_BM, forest, examples)


def make_train_step(
    definition: Definition,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    schedule: GammaSchedule,
    *,
    examples: int,
    dtype: jnp.dtype,
    seed: int = 0,
) -> Step:
    """The train step; jit it with shardings and donate the state.

    Dropout, where the model's LoRA has it, depends on `seed`, the step and the micro-batch alone; a random decision on
    `seed`, the step and the post.

    The loss of a step is the mean over the posts that count, over all micro-batches: sums are accumulated and divided
    once, so A micro-batches of B rows give what one batch of A * B rows gives.
    """

    processor = definition.processor
    has_dropout = definition.lora is not None and definition.lora.dropout > 0

    def loss_of(
        trainable: Params, frozen: Params, forest: Forest, threshold: Threshold, key: jax.Array | None
    ) -> tuple[jax.Array, tuple]:
        params = join_params(trainable, frozen)
        losses = forest_losses(definition, params, forest, examples=examples, dtype=dtype, dropout_key=key)
        choice = objective(losses, threshold)
        sums = _sums(losses, choice, threshold, forest, processor)
        return sums["loss"], (sums, Outcomes(losses.sft_BS, losses.cot_BS, losses.has_sft_BS, choice.on_cot_BS))

    def train_step(state: State, batch: Forest) -> tuple[State, Metrics, Outcomes]:
        trainable, gamma = state["trainable"], state["gamma"]["gamma"]
        threshold = Threshold(gamma, state["gamma"].get("share", 0.5), step_keys(seed, state["step"]))

        key = jax.random.fold_in(jax.random.key(seed), state["step"]) if has_dropout else None
        keys = jax.random.split(key, batch.segment_BT.shape[0]) if has_dropout else None
        gradient, sums, outcomes = summed_gradient(
            lambda params, forest, key: loss_of(params, state["frozen"], forest, threshold, key),
            trainable,
            (batch, keys),
        )
        each = 1 / jnp.maximum(sums["posts"], 1)  # divides the gradient where it is read, not in a pass of its own
        grad_norm = optax.tree.norm(gradient) * each
        finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(grad_norm)

        # the barrier keeps the compiler from loading the moments before the gradient is complete, for peak memory
        waiting, gradient = jax.lax.optimization_barrier((state["optimizer"], gradient))
        before = jax.device_put(waiting, jax.memory.Space.Device)
        mean = jax.tree.map(lambda g: g * each, gradient)
        updates, after = optax.with_extra_args_support(optimizer).update(mean, before, trainable, norm=grad_norm)
        moved = {
            "trainable": optax.apply_updates(trainable, updates),
            "optimizer": after,
            "gamma": update_gamma(schedule, state["gamma"], _seen(sums)),
        }
        kept = {"trainable": trainable, "optimizer": before, "gamma": state["gamma"]}
        moved = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, kept)
        new_state = {"step": state["step"] + 1, "frozen": state["frozen"], **moved}
        metrics = {**_metrics(sums, grad_norm, gamma), **_fills(sums, batch, processor), "skipped": 1.0 - finite}
        return new_state, metrics, outcomes

    return train_step


def summed_gradient(
    loss_of: Callable[[Params, Forest, jax.Array | None], tuple[jax.Array, tuple[Metrics, Outcomes]]],
    trainable: Params,
    batches: tuple[Forest, jax.Array | None],
) -> tuple[Params, Metrics, Outcomes]:
    """The sums over A micro-batches of the gradient and of the metrics, and the outcomes of every example [A, ...].

    Each micro-batch adds its gradient in place, layer by layer, to one buffer that the backward pass writes to: the
    gradient is held once, not once more for the micro-batch at hand.
    """
    if batches[0].segment_BT.shape[0] == 1:
        only = jax.tree.map(lambda array: array[0], batches)
        gradient, (sums, outcomes) = jax.grad(loss_of, has_aux=True)(trainable, *only)
        return gradient, sums, jax.tree.map(lambda array: array[None], outcomes)

    total = jax.tree.map(lambda param: jax.new_ref(jnp.zeros_like(param)), trainable)

    def accumulate(_: None, each: tuple[Forest, jax.Array | None]) -> tuple[None, tuple[Metrics, Outcomes]]:
        loss, backward, aux = jax.vjp(lambda params: loss_of(params, *each), trainable, has_aux=True)
        backward.with_refs(total)(jnp.ones_like(loss))
        return None, aux

    _, (sums, outcomes) = jax.lax.scan(accumulate, None, batches)
    return jax.tree.map(jax.ref.freeze, total), jax.tree.map(lambda each: each.sum(axis=0), sums), outcomes


def _slots(forest: Forest, processor: Processor) -> dict[str, jax.Array]:
    """Masks of the filled slots, by kind."""
    return {"tokens": forest.segment_BT > 0, **processor.filled(forest.images)}


def _sums(losses: Losses, choice: Choice, threshold: Threshold, forest: Forest, processor: Processor) -> Metrics:
    """Sums over a micro-batch, and its filled slots by kind."""
    sums = {
        "loss": jnp.where(choice.counts_BS, choice.loss_BS, 0),
        "posts": choice.counts_BS,
        "packed": forest.segment_BT.max(axis=1),  # posts are numbered from 1 in their row
        "loss_sft": losses.sft_BS,
        "posts_sft": losses.has_sft_BS,
        "loss_cot": losses.cot_BS,
        "posts_cot": losses.has_cot_BS,
        "on_cot": choice.on_cot_BS,
        "labels": forest.weight_BM,
        "number": jnp.where(losses.has_sft_BS, choice.number_BS, 0),
        "below": losses.has_cot_BS & (choice.number_BS < threshold.gamma),
        "p_think": jnp.where(losses.has_mode_BS, jnp.exp(-losses.think_BS), 0),
        "p_think_balance": think_at_balance(losses, threshold.gamma),
        "loss_kp": jnp.where(losses.has_mode_BS, keyphrase_loss(losses), 0),
        "posts_mode": losses.has_mode_BS,
        **_slots(forest, processor),
    }
    return {name: jnp.sum(array, dtype=jnp.float32) for name, array in sums.items()}


def _seen(sums: Metrics) -> Seen:
    return Seen(sums["number"], sums["posts_sft"], sums["below"], sums["on_cot"], sums["posts_cot"])


def _metrics(sums: Metrics, grad_norm: jax.Array, gamma: jax.Array) -> Metrics:
    """Means over posts, and counts; `grad_norm` is before clipping, `gamma` the value that the step used.

    A mean over no posts is NaN: a step without chains of thought has no CoT loss.
    """

    def mean(total: str, posts: str) -> jax.Array:
        return jnp.where(sums[posts] > 0, sums[total] / jnp.maximum(sums[posts], 1), jnp.nan)

    return {
        "loss": mean("loss", "posts"),
        "loss_sft": mean("loss_sft", "posts_sft"),
        "loss_cot": mean("loss_cot", "posts_cot"),
        "loss_kp": mean("loss_kp", "posts_mode"),
        "p_think": mean("p_think", "posts_mode"),
        "p_think_balance": mean("p_think_balance", "posts_mode"),
        "cot_share": mean("on_cot", "posts"),
        "gamma": gamma,
        "grad_norm": grad_norm,
        "posts": sums["posts"],
        "left_out": sums["packed"] - sums["posts"],
        "labels": sums["labels"],
        "tokens": sums["tokens"],
    }


def _fills(sums: Metrics, batch: Forest, processor: Processor) -> Metrics:
    """Shares of the batch's slots that are filled."""
    return {f"fill_{name}": sums[name] / max(slot.size, 1) for name, slot in _slots(batch, processor).items()}
