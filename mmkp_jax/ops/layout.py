"""Where activations and gathered weights live on the mesh; the compiler lays out the rest.

Without an ambient mesh, every function here leaves all on one device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

ROW_AXES = ("data", "fsdp")
"""The mesh axes that rows of a batch are divided over."""

HEAD_AXIS = "tensor"
"""The mesh axis that heads are divided over."""


def over_rows(x: jax.Array) -> jax.Array:
    """`x`, with its leading axis divided over the batch axes.

    Without it the compiler may follow the parameters' sharding and move activations instead of weights.
    """
    axes = tuple(a for a in ROW_AXES if a in _mesh_axes())
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x


def whole_vectors(table: jax.Array) -> jax.Array:
    """A table whose rows are each whole on one device, however the rows are divided."""
    if not _mesh_axes():
        return table
    free = (PartitionSpec.UNCONSTRAINED,) * (table.ndim - 1)
    return jax.lax.with_sharding_constraint(table, PartitionSpec(*free, None))


def filling_of(width: int, dtype: jnp.dtype) -> int:
    """Zeros that a product's outputs need for whole vectors of 16 bytes, which a GPU's matrix units read at once.

    They are for bfloat16 on one device, where a copy of the weight is all they cost: XLA adds none itself (as of JAX
    0.10, by the program compiled for an H100). Of published widths only Qwen2.5-VL's tower needs them, 3,420.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return -width % 8 if jnp.dtype(dtype).itemsize == 2 and mesh.size <= 1 else 0


def on_each_device(attend: Callable[..., jax.Array], rows: Any, *qkv: jax.Array) -> jax.Array:
    """`attend(rows, q, k, v)` on each device's part: the compiler cannot partition a kernel.

    Heads are divided where every device gets whole groups; otherwise each computes them all.

    Args:
        rows: arrays with a leading axis of rows.
        qkv: q [B, T, N, H], k and v [B, T, K, H].
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.axis_names:
        return attend(rows, *qkv)
    over = tuple(axis for axis in ROW_AXES if axis in mesh.axis_names)
    divided = HEAD_AXIS in mesh.axis_names and qkv[1].shape[2] % mesh.shape[HEAD_AXIS] == 0
    spec = PartitionSpec(over, None, HEAD_AXIS if divided else None)
    specs = (PartitionSpec(over), spec, spec, spec)
    return jax.shard_map(attend, in_specs=specs, out_specs=spec, check_vma=False)(rows, *qkv)


def _mesh_axes() -> tuple[str, ...]:
    return jax.sharding.get_abstract_mesh().axis_names
