"""The head without logits, against log_softmax over all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.ops import cross_entropy
from mmkp_jax.ops.cross_entropy import label_nll, vocabulary_blocks

VOCAB = 96


@pytest.fixture(params=[(1, 96), (3, 32), (16, 6), (7, 14)], ids="{0[0]} blocks of {0[1]}".format)
def blocks(request, monkeypatch):
    """Blocks that divide the vocabulary, and some that do not (7 x 14 = 98)."""
    n, size = request.param
    monkeypatch.setattr(cross_entropy, "vocabulary_blocks", lambda vocab: (n, size))


def plain(hidden, head, slot, label):
    log_p = jax.nn.log_softmax(hidden @ head.T, axis=-1)
    picked = jnp.take_along_axis(log_p, slot[..., None], axis=1)
    return -jnp.take_along_axis(picked, label[..., None], axis=-1)[..., 0]


def random_case(dtype):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 9, 8)), dtype)
    head = jnp.asarray(rng.normal(size=(VOCAB, 8)), dtype)
    return (
        hidden,
        head,
        jnp.asarray(rng.integers(0, 9, (2, 5))),
        jnp.asarray([[0, 95, 7, 48, 33], [1, 2, 2, 94, 50]]),
    )


def test_values_and_gradients_equal_log_softmax_in_float64(blocks):
    with jax.enable_x64(True):
        hidden, head, slot, label = random_case(jnp.float64)
        weight = jnp.linspace(-1, 1, 10).reshape(2, 5)

        def run(nll):
            return jax.value_and_grad(lambda h, w: (nll(h, w, slot, label) * weight).sum(), argnums=(0, 1))(
                hidden, head
            )

        ours, theirs = run(label_nll), run(plain)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-13)
    for a, b in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_a_label_that_is_certain_costs_exactly_nothing_and_nothing_costs_less(blocks):
    hidden, head, slot, label = random_case(jnp.float32)
    nll = label_nll(hidden * 1e4, head, slot, label)
    assert np.isfinite(nll).all() and (np.asarray(nll) >= 0).all()
    best = jnp.take_along_axis((hidden * 1e4) @ head.T, slot[..., None], axis=1).argmax(-1)
    assert (np.asarray(label_nll(hidden * 1e4, head, slot, best)) == 0).all()


def test_bf16_products_with_float32_softmax():
    hidden, head, slot, label = random_case(jnp.float32)
    half = label_nll(hidden.astype(jnp.bfloat16), head, slot, label)
    assert half.dtype == jnp.float32
    rounded = (x.astype(jnp.bfloat16).astype(jnp.float32) for x in (hidden, head))
    np.testing.assert_allclose(half, plain(*rounded, slot, label), rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda w: label_nll(hidden.astype(jnp.bfloat16), w, slot, label).sum())(head)
    assert gradient.dtype == jnp.float32  # as the parameter, whatever the products are taken in


@pytest.mark.parametrize(
    "vocab, n, size",
    [(151_936, 16, 9496), (152_064, 11, 13_824), (4096, 1, 4096), (128_256, 8, 16_032), (151_667, 10, 15_167)],
)
def test_every_vocabulary_falls_into_few_small_blocks(vocab, n, size):
    """Published ones into equal blocks; one that was extended by two tokens is filled up."""
    assert vocabulary_blocks(vocab) == (n, size) and size <= cross_entropy.BLOCK and 0 <= n * size - vocab < n
