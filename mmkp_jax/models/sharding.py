"""The mesh, and the rules that lay parameters and batches out on it.

A parameter names its axes (`models.layers.parameter`); a rule maps such a name to a mesh axis. Where that does not
divide the parameter's axis, or the mesh axis is taken by an earlier one, the parameter is whole along it.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mmkp_jax.data.forest import Forest
from mmkp_jax.errors import InputError, nearest
from mmkp_jax.models.definition import Definition, Params, as_dtype, flatten, unflatten
from mmkp_jax.ops.layout import ROW_AXES
from mmkp_jax.runtime.fields import DEFAULT_RULES, MESH_AXES

MEMORIES = {"device": "device", "host": "pinned_host"}
"""Memories for arrays, and JAX's names for them."""

Rules = Mapping[str, str | None]


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all `devices` with the axes `MESH_AXES`; one size may be -1, for the remaining devices.

    Sizes that are all 1 take the first device alone. Of several TPU slices, the axis data divides them first: only its
    gradients then cross the network between them.

    Raises:
        InputError: an unknown axis, a size that is not positive, sizes that do not use exactly the devices, or an axis
            data that is not a multiple of the slices.
    """
    devices = jax.devices() if devices is None else devices
    where = "config.mesh"
    for axis in sizes:
        if axis not in MESH_AXES:
            raise InputError(
                f"unknown mesh axis {axis!r}{nearest(axis, MESH_AXES)}", where, f"use {', '.join(MESH_AXES)}"
            )
    shape = [sizes.get(axis, 1) for axis in MESH_AXES]
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise InputError(f"sizes {dict(sizes)}", where, "give positive sizes, at most one of them -1")
    given = math.prod(size for size in shape if size != -1)
    shape = [len(devices) // given if size == -1 else size for size in shape]
    if math.prod(shape) == 1:
        devices = devices[:1]
    if math.prod(shape) != len(devices):
        raise InputError(
            f"{' x '.join(map(str, shape))} ({', '.join(MESH_AXES)}) does not use exactly {len(devices)} devices",
            where,
            "make the product of the sizes the number of devices, or one size -1",
        )
    types = (AxisType.Auto,) * 3
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1 or devices[0].platform != "tpu":
        return jax.make_mesh(shape, MESH_AXES, axis_types=types, devices=devices)
    data, *rest = shape
    if data % slices:
        hint = "make it a multiple of them, as mesh=v5e_16x2 does"
        raise InputError(f"{data} does not divide into {slices} slices", "config.mesh.data", hint)
    grid = mesh_utils.create_hybrid_device_mesh((data // slices, *rest), (slices, 1, 1), list(devices))
    return Mesh(grid, MESH_AXES, axis_types=types)


def check_rules(rules: Rules) -> None:
    """Raises InputError for a rule that names an unknown logical or mesh axis."""
    for name, axis in rules.items():
        if name not in DEFAULT_RULES:
            raise InputError(
                f"unknown parameter axis {name!r}{nearest(name, DEFAULT_RULES)}",
                "config.sharding_rules",
                f"use {', '.join(DEFAULT_RULES)}",
            )
        if axis is not None and axis not in MESH_AXES:
            raise InputError(
                f"rule {name!r} names unknown mesh axis {axis!r}{nearest(axis, MESH_AXES)}",
                "config.sharding_rules",
                f"use {', '.join(MESH_AXES)} or None",
            )


def partition(shape: Sequence[int], names: Sequence[str | None], mesh: Mesh, rules: Rules) -> PartitionSpec:
    """The partition of a parameter of `shape` whose axes are called `names`."""
    spec: list[str | None] = []
    for size, name in zip(shape, names, strict=True):
        axis = rules.get(name) if name else None
        fits = axis is not None and axis not in spec and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0
        spec.append(axis if fits else None)
    return PartitionSpec(*spec)


def param_shardings(definition: Definition, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Params:
    """The sharding of every parameter, as a nested dict."""
    check_rules(rules)
    axes = flatten(definition.logical_axes())
    return unflatten(
        {
            path: NamedSharding(mesh, partition(leaf.shape, axes[path], mesh, rules))
            for path, leaf in flatten(definition.shapes()).items()
        }
    )


def param_structs(definition: Definition, mesh: Mesh, rules: Rules, dtype: jnp.dtype) -> Params:
    """Every parameter as a `jax.ShapeDtypeStruct` with its sharding, all of one dtype (except matrices in 4 bits)."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        as_dtype(definition.shapes(), dtype),
        param_shardings(definition, mesh, rules),
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of batches [accumulation steps, rows, ...]: rows over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(None, ROW_AXES))


def place_batch(batch: Forest, mesh: Mesh) -> Forest:
    """A host's part of a batch [accumulation steps, its rows, ...] as global arrays on the mesh."""
    place = functools.partial(jax.make_array_from_process_local_data, batch_sharding(mesh))
    with jax.transfer_guard("allow"):  # of several hosts, this counts as a hidden transfer
        return jax.tree.map(place, batch)


def planned_rows(mesh: Mesh, accumulation_steps: int, rows: int) -> np.ndarray:
    """The planned row of each row of a batch on the mesh: int [A, B].

    Each host loads an equal part of the planned rows, in order (`data.plan.host_rows`).
    """
    part = rows // jax.process_count()
    own = np.arange(rows, dtype=np.int32)[jax.process_index() * part :][:part].reshape(accumulation_steps, -1)
    placed = jax.make_array_from_process_local_data(batch_sharding(mesh), own)
    return np.asarray(jax.jit(lambda row_AB: row_AB, out_shardings=replicated(mesh))(placed))


def optimizer_shardings(
    optimizer: optax.GradientTransformation, trainable: Params, shardings: Params, mesh: Mesh, memory: str
) -> optax.OptState:
    """Shardings of the optimizer's state: moments as their parameters; counters replicated.

    Args:
        trainable: shapes of the trainable parameters.
        shardings: their shardings.
        memory: memory of the moments between steps, one of `MEMORIES`.
    """
    return optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding.with_memory_kind(MEMORIES[memory]),
        jax.eval_shape(optimizer.init, trainable),
        shardings,
        transform_non_params=lambda _: replicated(mesh),
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that is the same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharding_table(definition: Definition, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> str:
    """A table with a line a parameter: path, shape, mesh axes that its axes are divided over, shape on one device."""
    shardings = flatten(param_shardings(definition, mesh, rules))
    lines = [f"{'parameter':40} {'shape':22} {'divided over':22} on one device"]
    for path, leaf in flatten(definition.shapes()).items():
        axes = [axis or "-" for axis in shardings[path].spec]
        local = shardings[path].shard_shape(leaf.shape)
        lines.append(f"{path:40} {_by(leaf.shape):22} {' '.join(axes):22} {_by(local)}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
