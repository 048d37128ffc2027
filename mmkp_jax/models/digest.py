"""Digests of parameters, wherever they are."""

import math

import jax
import jax.numpy as jnp

from mmkp_jax.models.definition import Params, flatten

_STARTS = (0x243F6A88, 0x85A308D3)
"""Two starts make two sums of 32 bits an array."""


def digests_of(params: Params) -> dict[str, str]:
    """A digest of each parameter by its path: of shape, dtype and every number; the same on any mesh and device.

    It holds sums of the numbers' bits, mixed with their place: exact, and independent of the order.
    """
    arrays = flatten(params)
    with jax.transfer_guard("allow"):
        sums = jax.device_get(jax.jit(_sums)(arrays)) if arrays else {}
    return {path: f"{_kind(array)} {sums[path][0]:08x}{sums[path][1]:08x}" for path, array in sorted(arrays.items())}


def _kind(array: jax.Array) -> str:
    return f"{array.dtype}{list(array.shape)}".replace(" ", "")


def _sums(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: jnp.stack([_sum(array, start) for start in _STARTS]) for path, array in arrays.items()}


def _sum(array: jax.Array, start: int) -> jax.Array:
    """A checksum modulo 2^32 of an array's bits, each mixed with its index."""
    unsigned = jnp.dtype(f"uint{8 * array.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
    index = jnp.uint32(start)
    for axis in range(array.ndim):
        stride = math.prod(array.shape[axis + 1 :]) % 2**32
        index = index + jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * jnp.uint32(stride)
    return jnp.sum(_mixed(bits + _mixed(index)), dtype=jnp.uint32)


def _mixed(x: jax.Array) -> jax.Array:
    """Bits of 32-bit numbers mixed, so that equal sums of other numbers are a matter of chance (2^-32)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
