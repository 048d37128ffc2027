"""NF4, matrices in 4 bits: the quantiles of a normal distribution, in blocks of 64 (QLoRA, Dettmers et al., 2023).

X any axes (layers, output), in: a matrix's inputs. A block is 64 numbers along `in`, divided by the largest magnitude
among them (`absmax`, float32); a code is the number of the nearest of 16 values. Two codes are a byte, the first in its
upper half, as bitsandbytes packs them. `absmax` is not quantised in turn.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

BLOCK = 64
"""Numbers that share one `absmax`."""

CODES, ABSMAX = "codes", "absmax"
"""Names of the two arrays that replace a matrix, below its path."""

# fmt: off
VALUES = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
], np.float32)
# fmt: on
"""The 16 values: appendix E of the paper, as bitsandbytes has them."""

BOUNDS = ((VALUES[1:].astype(np.float64) + VALUES[:-1]) / 2).astype(np.float32)
"""Bounds between values that are next to each other."""


def quantise(weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Codes, uint8 [X, in / 2], and `absmax`, float32 [X, in / 64], of a matrix [X, in].

    The bounds are multiplied by `absmax`, instead of the numbers divided by it, so that all devices give one result.
    """
    blocks = weight.astype(jnp.float32).reshape(*weight.shape[:-1], -1, BLOCK)
    absmax = jnp.abs(blocks).max(axis=-1)
    unit = jnp.where(absmax > 0, absmax, 1)[..., None]  # the code of 0 in a block of zeros
    code = sum((blocks > bound * unit).astype(jnp.uint8) for bound in BOUNDS)
    pairs = code.reshape(*weight.shape[:-1], -1, 2)
    return pairs[..., 0] << 4 | pairs[..., 1], absmax


def dequantise(codes: jax.Array, absmax: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The matrix [X, in], multiplied in float32 and rounded once to `dtype`."""
    code = jnp.stack([codes >> 4, codes & 15], axis=-1).reshape(*codes.shape[:-1], -1, BLOCK)
    return (_value(code) * absmax[..., None]).astype(dtype).reshape(*codes.shape[:-1], -1)


def _value(code: jax.Array) -> jax.Array:
    """`VALUES[code]`, exactly: of 16 products one is not 0. Elementwise; a gather of single numbers is slow on a TPU.

    Selections would need each value as a whole array, which JAX computes once before a scan over layers and keeps.
    """
    return sum((code == i).astype(jnp.float32) * value for i, value in enumerate(VALUES))


class NF4Weight(nnx.Module):
    """A matrix in 4 bits, in the place of a `Linear`'s weight."""

    def __init__(self, shape: tuple[int, ...], axes: tuple[str | None, ...]):
        """`shape` [X, in] and names of its axes; `in` is a multiple of 64."""
        *front, width = shape
        self.codes = nnx.Param(jnp.zeros((*front, width // 2), jnp.uint8), logical_axes=axes)
        self.absmax = nnx.Param(jnp.zeros((*front, width // BLOCK), jnp.float32), logical_axes=axes)

    def values(self, dtype: jnp.dtype) -> jax.Array:
        """The matrix."""
        return dequantise(self.codes[...], self.absmax[...], dtype)


def is_quantised(path: str) -> bool:
    """Whether a parameter is one of the two arrays of a matrix in 4 bits, which keep their dtypes."""
    return path.endswith((f".{CODES}", f".{ABSMAX}"))


def unquantised_shape(path: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Path and shape of the matrix that `codes` stand for; any other path and shape unchanged."""
    if not path.endswith(f".{CODES}"):
        return path, shape
    return path.removesuffix(f".{CODES}"), (*shape[:-1], 2 * shape[-1])
