"""Drawn tokens come as often as temperature and top-p say, and from (seed, name, draw, index) alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.prompts import MODES
from mmkp_jax.decoding.sampling import (
    GREEDY,
    Sampling,
    banned_first,
    log_probabilities,
    most_probable,
    name_number,
    nucleus,
    sample_tokens,
)
from tests.support.needs_torch import needs_torch

SHARE = np.array([0.05, 0.4, 0.2, 0.25, 0.1])
DRAWS = 20_000


def shares(sampling: Sampling) -> np.ndarray:
    """How often each token comes in many samples for one prompt."""
    logits = jnp.broadcast_to(jnp.log(SHARE), (DRAWS, len(SHARE))).astype(jnp.float32)
    name, index = jnp.full(DRAWS, name_number("a"), jnp.uint32), jnp.zeros(DRAWS, jnp.int32)
    tokens = jax.jit(sample_tokens, static_argnums=1)(logits, sampling, name, jnp.arange(DRAWS), index)
    return np.bincount(tokens, minlength=len(SHARE)) / DRAWS


@pytest.mark.parametrize(
    "sampling, expected",
    [
        (Sampling(1.0), SHARE),
        (Sampling(1.0, top_p=0.6), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        (Sampling(1.0, top_p=0.7), [0, 0.4 / 0.85, 0.2 / 0.85, 0.25 / 0.85, 0]),
        (Sampling(1.0, top_p=0.01), [0, 1, 0, 0, 0]),
        (Sampling(0.5), SHARE**2 / (SHARE**2).sum()),
        (Sampling(0.5, top_p=0.6), [0, 0.16 / 0.2225, 0, 0.0625 / 0.2225, 0]),  # top-p after the temperature
        (GREEDY, [0, 1, 0, 0, 0]),
    ],
)
def test_tokens_come_as_often_as_they_should(sampling, expected):
    """Within five standard deviations; a token outside of the nucleus never."""
    expected = np.asarray(expected)
    assert (np.abs(shares(sampling) - expected) <= 5 * np.sqrt(expected * (1 - expected) / DRAWS)).all()


def test_log_probabilities_are_those_of_a_softmax():
    logits_BV = np.random.default_rng(0).normal(size=(50, 200)).astype(np.float32) * 9 + 300
    token_B = np.arange(50) * 3
    share_BV = np.exp(logits_BV.astype(float) - 300)
    expected = np.log(share_BV[np.arange(50), token_B] / share_BV.sum(axis=1))
    np.testing.assert_allclose(log_probabilities(jnp.asarray(logits_BV), jnp.asarray(token_B)), expected, atol=1e-4)


def test_a_token_that_may_not_open_an_answer_takes_no_probability():
    """Given an answer without a chain of thought; the second slot, in another mode, has the model's own."""
    logits_BV = jnp.broadcast_to(jnp.log(SHARE), (2, len(SHARE))).astype(jnp.float32)
    mode_B = jnp.array([MODES.index("direct"), MODES.index("auto")])
    allowed_BV = banned_first(logits_BV, (1,), mode_B, jnp.zeros(2, jnp.int32))
    expected = np.log([0.25 / 0.6, 0.25])
    np.testing.assert_allclose(log_probabilities(allowed_BV, jnp.array([3, 3])), expected, atol=1e-6)


@pytest.mark.parametrize("vocabulary", [1, 7, 64, 320, 1344])
def test_the_most_probable_token_is_the_first_of_equal_ones(vocabulary):
    rng = np.random.default_rng(vocabulary)
    logits_BV = np.concatenate(
        [
            rng.standard_normal((30, vocabulary)),
            rng.integers(0, 3, (30, vocabulary)),  # ties within blocks and between them
            np.where(rng.random((30, vocabulary)) < 0.9, -np.inf, 1.0),  # as beside a nucleus
        ]
    ).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(most_probable)(logits_BV), logits_BV.argmax(axis=-1))


def test_the_nucleus_is_transformers():
    torch = needs_torch()
    from transformers import TopPLogitsWarper

    logits = np.random.default_rng(0).normal(size=(50, 200)).astype(np.float32) * 3
    for top_p in (0.05, 0.5, 0.9, 0.999):
        theirs = TopPLogitsWarper(top_p)(None, torch.from_numpy(logits)).numpy()
        np.testing.assert_array_equal(nucleus(jnp.asarray(logits), top_p), theirs)


def test_each_of_seed_name_sample_and_index_gives_other_noise():
    logits = jnp.zeros((1, 100_000))

    def draw(seed=0, name="a", draw=0, index=0) -> int:
        number = jnp.asarray([name_number(name)], jnp.uint32)
        return int(
            sample_tokens(logits, Sampling(1.0, seed=seed), number, jnp.asarray([draw]), jnp.asarray([index]))[0]
        )

    drawn = [draw(), draw(seed=1), draw(name="b"), draw(draw=1), draw(index=1)]
    assert len(set(drawn)) == len(drawn) and draw() == drawn[0]
