"""The next token from the logits: the most probable one, or a random sample; and constraints on the first tokens.

B slots, V vocabulary, X blocks of it, Y tokens of a block, O tokens of the opening of a chain of thought.
"""

import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmkp_jax.data.prompts import MODES


class Sampling(NamedTuple):
    """How tokens are sampled."""

    temperature: float = 0.0
    """Logits are divided by it; 0 takes the most probable token (greedy)."""
    top_p: float = 1.0
    """Only the fewest most probable tokens with this total probability are sampled; in (0, 1]."""
    seed: int = 0


GREEDY = Sampling()


def name_number(name: str) -> int:
    """A prompt's name as the 32 bits that its samples depend on."""
    return zlib.crc32(name.encode())


def sample_tokens(
    logits_BV: jax.Array, sampling: Sampling, name_B: jax.Array, sample_B: jax.Array, index_B: jax.Array
) -> jax.Array:
    """A token for each slot, int32 [B]: a function of the slot's own logits and of (seed, name, sample, index).

    Args:
        logits_BV: float32, no NaN.
        name_B: `name_number` of the slot's prompt, uint32.
        sample_B: number of the sample for the slot's prompt.
        index_B: index of the token in the completion.
    """
    if sampling.temperature == 0:
        return most_probable(logits_BV)

    def noise(name: jax.Array, sample: jax.Array, index: jax.Array) -> jax.Array:
        key = jax.random.key(sampling.seed)
        for number in (name, sample, index):
            key = jax.random.fold_in(key, number)
        return jax.random.gumbel(key, logits_BV.shape[1:], logits_BV.dtype)

    logits_BV = nucleus(logits_BV / sampling.temperature, sampling.top_p)
    return most_probable(logits_BV + jax.vmap(noise)(name_B, sample_B, index_B))


def banned_first(logits_BV: jax.Array, opening: Sequence[int], mode_B: jax.Array, index_B: jax.Array) -> jax.Array:
    """The logits, with -inf for the first token of the opening where a completion begins that may not have it.

    Args:
        opening: the tokens that every chain of thought begins with.
        mode_B: index in `MODES`, int32.
        index_B: index of the token in the completion.
    """
    begins_B = (mode_B == MODES.index("direct")) & (index_B == 0)
    opens_V = jnp.arange(logits_BV.shape[1]) == opening[0]
    return jnp.where(begins_B[:, None] & opens_V, -jnp.inf, logits_BV)


def forced_opening(token_B: jax.Array, opening: Sequence[int], mode_B: jax.Array, index_B: jax.Array) -> jax.Array:
    """The tokens, int32 [B], with those of the opening at the start of completions that must have it."""
    opening_O = jnp.asarray(opening, jnp.int32)
    forced_B = (mode_B == MODES.index("think")) & (index_B < len(opening))
    return jnp.where(forced_B, opening_O[jnp.minimum(index_B, len(opening) - 1)], token_B)


def most_probable(logits_BV: jax.Array) -> jax.Array:
    """The index of the largest logit, int32 [B]: the first of equal ones, as `argmax` over the last axis.

    The largest of each of up to 64 blocks is found first, then `argmax` within one: XLA's own loop over (value, index)
    pairs is not vectorised on CPUs.
    """
    B, V = logits_BV.shape
    blocks_BXY = logits_BV.reshape(B, math.gcd(V, 64), -1)
    best_B = blocks_BXY.max(axis=-1).argmax(axis=-1)
    within_B = jnp.take_along_axis(blocks_BXY, best_B[:, None, None], axis=1)[:, 0].argmax(axis=-1)
    return (best_B * blocks_BXY.shape[2] + within_B).astype(jnp.int32)


def log_probabilities(logits_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    """The log-probability of each slot's token by the model itself, whatever it was sampled with; nats, [B]."""
    chosen_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)[:, 0]
    return chosen_B - jax.nn.logsumexp(logits_BV, axis=-1)


def nucleus(logits_BV: jax.Array, top_p: float) -> jax.Array:
    """The logits, with -inf for all but the fewest most probable tokens that together have probability `top_p`.

    The token that reaches it is among them (Holtzman et al., 2020), and so is one that ties with that token.
    """
    if top_p >= 1:
        return logits_BV
    descending_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    share_BV = jax.nn.softmax(descending_BV, axis=-1)
    before_BV = jnp.cumsum(share_BV, axis=-1) - share_BV
    last_B1 = jnp.sum(before_BV < top_p, axis=-1, keepdims=True) - 1
    return jnp.where(logits_BV >= jnp.take_along_axis(descending_BV, last_B1, axis=-1), logits_BV, -jnp.inf)
