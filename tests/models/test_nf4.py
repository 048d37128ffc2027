"""Matrices in 4 bits against a plain statement in numpy, and a model that holds its decoder so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.models.nf4 import BLOCK, VALUES, dequantise, quantise
from tests.support.hoisted import kept_through_layers


def stated(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes a number each, and the largest magnitude of each block: by distance to the 16 values, in float64."""
    blocks = weight.astype(np.float64).reshape(*weight.shape[:-1], -1, BLOCK)
    absmax = np.abs(blocks).max(axis=-1, keepdims=True)
    share = np.divide(blocks, absmax, out=np.zeros_like(blocks), where=absmax > 0)
    codes = np.abs(share[..., None] - VALUES.astype(np.float64)).argmin(axis=-1)
    return codes.reshape(weight.shape), absmax[..., 0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(5, 64), (3, 7, 192)])
def test_codes_and_scales_are_those_of_a_plain_statement(shape, dtype):
    weight = jnp.asarray(0.03 * np.random.default_rng(0).standard_normal(shape), dtype).at[0, ..., :64].set(0)
    packed, absmax = jax.jit(quantise)(weight)
    codes, largest = stated(np.asarray(weight, np.float32))
    assert packed.dtype == np.uint8 and packed.shape == (*shape[:-1], shape[-1] // 2)
    assert np.array_equal(np.asarray(packed), codes[..., ::2] * 16 + codes[..., 1::2])
    assert np.array_equal(absmax, largest.astype(np.float32))
    values = (VALUES[codes].reshape(*largest.shape, BLOCK) * largest[..., None].astype(np.float32)).reshape(shape)
    assert np.array_equal(dequantise(packed, absmax, jnp.float32), values)
    assert np.array_equal(dequantise(packed, absmax, jnp.bfloat16), values.astype(jnp.bfloat16))


def test_the_error_on_normal_numbers_is_that_of_the_published_format():
    """9.2% of their norm (as qwix measures for NF4 in blocks of 64); every code is used."""
    weight = np.random.default_rng(1).standard_normal((256, 256), np.float32)
    packed, absmax = quantise(jnp.asarray(weight))
    error = np.linalg.norm(dequantise(packed, absmax, jnp.float32) - weight) / np.linalg.norm(weight)
    assert error == pytest.approx(0.092, abs=0.003)
    assert len(np.unique(np.stack([packed >> 4, packed & 15]))) == 16


def test_no_array_of_a_matrixs_size_is_kept_through_the_layers():
    x, weights = jnp.ones((3, 128)), quantise(jnp.ones((2, 128, 128)))
    kept = kept_through_layers(lambda x, w: x @ dequantise(*w, x.dtype).T, x, weights)
    assert kept and max(np.prod(shape) for shape in kept) <= x.size
