"""Every post's losses under its two targets, and the parts of them that decisions and objectives are made of.

B rows, T tokens, M label slots, S examples a row. Losses are nats a label. Paper: arXiv 2510.09358.

Both branches of a post begin with a copy of the same prompt token, so their first labels are predicted by the same
distribution. Where these labels differ, the first label of the CoT target decides the *mode*: P(think) is its
probability. The keyphrases' loss given a direct answer follows from the labels' losses alone, since
P(target | not think) = P(target) / (1 - P(think)) for a target that begins with another token:

    n L_kp = Σ nll_sft + log(1 - P(think))
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmkp_jax.data.forest import COT, SFT, Forest

LEAST_THINK = 1e-6
"""Lower bound of -log P(think) in 1 - P(think): about where float32 no longer tells P(think) from 1."""


class Losses(NamedTuple):
    """Numbers of each example from one forward pass; 0 where the target is absent."""

    sft_BS: jax.Array
    """Mean NLL of the SFT target's labels (eq. 2, over the target only)."""
    cot_BS: jax.Array
    """Mean NLL of the CoT target's labels (eq. 3)."""
    has_sft_BS: jax.Array
    has_cot_BS: jax.Array
    sft_labels_BS: jax.Array
    """Number of labels of the SFT target, n (float32)."""
    cot_labels_BS: jax.Array
    """Number of labels of the CoT target (float32)."""
    think_BS: jax.Array
    """-log P(think), the NLL of the CoT target's first label; 0 where `has_mode_BS` is not set."""
    has_mode_BS: jax.Array
    """Whether both targets are there and begin with different tokens (bool)."""
    post_BS: jax.Array
    """A hash of the example's tokens, which does not depend on its place in the batch (uint32)."""


def example_losses(nll_BM: jax.Array, forest: Forest, examples: int) -> Losses:
    """The numbers of each example, from `nll_BM` at the label slots; `examples` is S, a static number.

    Slots of weight 0 are masked before the division, so padding has a finite loss and gradient.
    """
    segment_BM = jnp.take_along_axis(forest.segment_BT, forest.label_slot_BM, axis=1)
    branch_BM = jnp.take_along_axis(forest.branch_BT, forest.label_slot_BM, axis=1)
    nll_BM = jnp.where(forest.weight_BM > 0, nll_BM * forest.weight_BM, 0)
    segment_S = 1 + jnp.arange(examples)

    def of(branch: int) -> jax.Array:
        return (segment_BM[..., None] == segment_S) & (branch_BM[..., None] == branch)

    def mean(of_BMS: jax.Array) -> tuple[jax.Array, jax.Array]:
        labels_BS = jnp.where(of_BMS, forest.weight_BM[..., None], 0).sum(axis=1)
        total_BS = jnp.where(of_BMS, nll_BM[..., None], 0).sum(axis=1)
        return total_BS / jnp.where(labels_BS > 0, labels_BS, 1), labels_BS

    (sft_BS, sft_labels_BS), (cot_BS, cot_labels_BS) = mean(of(SFT)), mean(of(COT))
    has_sft_BS, has_cot_BS = sft_labels_BS > 0, cot_labels_BS > 0

    first_BM = _first_labels(segment_BM, branch_BM) & (forest.weight_BM > 0)

    def first(value_BM: jax.Array, branch: int) -> jax.Array:
        return jnp.where(of(branch) & first_BM[..., None], value_BM[..., None], 0).sum(axis=1)

    differ_BS = first(forest.label_BM, SFT) != first(forest.label_BM, COT)
    has_mode_BS = has_sft_BS & has_cot_BS & differ_BS
    return Losses(
        sft_BS=sft_BS,
        cot_BS=cot_BS,
        has_sft_BS=has_sft_BS,
        has_cot_BS=has_cot_BS,
        sft_labels_BS=sft_labels_BS,
        cot_labels_BS=cot_labels_BS,
        think_BS=jnp.where(has_mode_BS, first(nll_BM, COT), 0),
        has_mode_BS=has_mode_BS,
        post_BS=_hashes(forest, segment_S),
    )


def _first_labels(segment_BM: jax.Array, branch_BM: jax.Array) -> jax.Array:
    """Whether a slot's label is the first of its branch: label slots are filled branch by branch, in order."""
    kind_BM = jnp.stack([segment_BM, branch_BM])
    same_BM = (kind_BM[..., 1:] == kind_BM[..., :-1]).all(axis=0)
    return jnp.pad(~same_BM, ((0, 0), (1, 0)), constant_values=True)


def _hashes(forest: Forest, segment_S: jax.Array) -> jax.Array:
    """Sums of mixed token numbers, modulo 2^32."""
    mixed_BT = forest.token_BT.astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
    mixed_BT = (mixed_BT ^ (mixed_BT >> 15)) * jnp.uint32(0x85EBCA77)
    return jnp.where(forest.segment_BT[..., None] == segment_S, mixed_BT[..., None], 0).sum(axis=1, dtype=jnp.uint32)


def log_direct(losses: Losses) -> jax.Array:
    """log(1 - P(think)) of each example, P(think) at most 1 - `LEAST_THINK`; 0 without a mode. [B, S]."""
    log_BS = jnp.log(-jnp.expm1(-jnp.maximum(losses.think_BS, LEAST_THINK)))
    return jnp.where(losses.has_mode_BS, log_BS, 0)


def keyphrase_loss(losses: Losses) -> jax.Array:
    """L_kp of each example, the mean NLL of the SFT target's labels given a direct answer; [B, S].

    It is the SFT loss where the example has no mode. Never below 0, which rounding could give.
    """
    part_BS = log_direct(losses) / jnp.where(losses.sft_labels_BS > 0, losses.sft_labels_BS, 1)
    return jnp.maximum(losses.sft_BS + part_BS, 0)


def think_at_balance(losses: Losses, gamma: jax.Array) -> jax.Array:
    """P(think) of each example at which its SFT loss is γ and the paper's rule switches it neither way; [B, S].

    Of n labels, n L_sft = -log(1 - P(think)) + n L_kp, so it is 1 - exp(-n (γ - L_kp)); 0 where L_kp is above γ.
    """
    room_BS = losses.sft_labels_BS * jnp.maximum(gamma - keyphrase_loss(losses), 0)
    return jnp.where(losses.has_mode_BS, -jnp.expm1(-room_BS), 0)


def chain_loss(losses: Losses) -> jax.Array:
    """Mean NLL of the CoT target's labels after the first, where the example has a mode, else of all; [B, S]."""
    rest_BS = jnp.maximum(losses.cot_labels_BS - 1, 1)
    return jnp.where(
        losses.has_mode_BS, (losses.cot_BS * losses.cot_labels_BS - losses.think_BS) / rest_BS, losses.cot_BS
    )
