"""A program for `test_load.py`: loads a folder on a 2 by 2 mesh, and compares each shard to a plain load.

Arguments: the folder; in a run of many processes also the coordinator's address, how many, and which one.
"""

import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.definition import define, flatten, unflatten


def split(path: str, struct: jax.ShapeDtypeStruct, mesh: jax.sharding.Mesh) -> NamedSharding:
    """Splits the first axis after a stack's layers, and the last one."""
    axes = [None] * len(struct.shape)
    own = 1 if ".layers." in path or ".blocks." in path else 0
    axes[-1] = "tensor" if struct.shape[-1] % 2 == 0 else None
    if own < len(axes) - 1:
        axes[own] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*axes))


def main(path: str, *network: str) -> None:
    """Exits with an error where a shard differs."""
    if network:
        address, count, number = network
        jax.distributed.initialize(address, int(count), int(number))
    mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    folder = open_folder(path)
    shapes = flatten(define(folder.config).shapes())
    shardings = {name: split(name, struct, mesh) for name, struct in shapes.items()}
    target = {
        name: jax.ShapeDtypeStruct(struct.shape, jax.numpy.bfloat16, sharding=shardings[name])
        for name, struct in shapes.items()
    }
    whole = {name: jax.ShapeDtypeStruct(struct.shape, jax.numpy.bfloat16) for name, struct in shapes.items()}
    plain = {name: np.asarray(array) for name, array in flatten(load_params(folder, unflatten(whole))).items()}
    for name, array in flatten(load_params(folder, unflatten(target))).items():
        assert array.sharding == shardings[name], name
        assert len(array.addressable_shards) == jax.local_device_count()
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), plain[name][shard.index], err_msg=name)
    print("equal on", jax.device_count(), "devices of", jax.process_count(), "processes")


if __name__ == "__main__":
    main(*sys.argv[1:])
