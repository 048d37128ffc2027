"""Parameters from devices, rounded there, to this process."""

import functools

import jax
import numpy as np
from jax.experimental import multihost_utils


def fetch(array: jax.Array, layer: int | None, dtype: np.dtype) -> np.ndarray:
    """One layer of a stack, or all of an unstacked array; of several hosts, all call this."""
    part = _part(array, layer, dtype)
    if not part.is_fully_addressable:  # other processes hold parts of it, and fetch it too
        part = multihost_utils.process_allgather(part, tiled=True)
    return np.ascontiguousarray(part)


@functools.partial(jax.jit, static_argnames="dtype")
def _part(array: jax.Array, layer: int | None, dtype: np.dtype) -> jax.Array:
    """The part, rounded on its devices."""
    if layer is not None:
        array = jax.lax.dynamic_index_in_dim(array, layer, keepdims=False)
    return array.astype(dtype)
