"""Where activations and gathered weights live on the mesh; the compiler lays out the rest.

Both are no-ops where there is no ambient mesh.
"""

import jax
from jax.sharding import PartitionSpec

ROW_AXES = ("data", "fsdp")
"""The mesh axes that rows of a batch are divided over."""


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


def _mesh_axes() -> tuple[str, ...]:
    return jax.sharding.get_abstract_mesh().axis_names
