"""Where activations live on the mesh: rows over the batch axes, everything else left to the compiler."""

import jax
from jax.sharding import PartitionSpec

ROW_AXES = ("data", "fsdp")
"""The mesh axes that rows of a batch are divided over."""


def over_rows(x: jax.Array) -> jax.Array:
    """`x`, with its leading axis divided over the ambient mesh's batch axes; as it is where there is no mesh.

    Without it the compiler may follow the parameters' sharding and move activations instead of weights.
    """
    axes = tuple(a for a in ROW_AXES if a in jax.sharding.get_abstract_mesh().axis_names)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x
