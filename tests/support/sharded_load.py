"""A program for `test_load.py`: loads a folder on meshes, compares each shard to a plain load, and counts what is read.

Arguments: the folder; the meshes, as `1x2x2,4x2x1` (data x fsdp x tensor); in a run of many processes also the
coordinator's address, how many, and which one.
"""

import collections
import contextlib
import functools
import math
import sys
import types

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from safetensors import safe_open

from mmkp_jax.families.qwen2_5_vl.names import NAMES
from mmkp_jax.families.registry import define
from mmkp_jax.hf import tensors
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.names import published_tensors
from mmkp_jax.models.definition import flatten, unflatten

Asked = dict[str, list[int]]
"""By tensor: how many numbers each slice has that safetensors was asked for."""


@contextlib.contextmanager
def open_and_note(asked: Asked, file, framework: str):
    """`safe_open`, for slices only."""
    with safe_open(file, framework=framework) as opened:
        yield types.SimpleNamespace(get_slice=lambda name: Slice(opened.get_slice(name), asked[name]))


class Slice:
    """A tensor in a file, which notes the size of what is asked of it."""

    def __init__(self, tensor, sizes: list[int]):
        self.tensor, self.sizes = tensor, sizes

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        shape = self.tensor.get_shape()
        self.sizes.append(math.prod(len(range(n)[part]) for n, part in zip(shape, index, strict=True)))
        return self.tensor[index]


def split(path: str, struct: jax.ShapeDtypeStruct, mesh: jax.sharding.Mesh) -> NamedSharding:
    """Splits the first axis after a stack's layers, and the last one, where the mesh divides them."""
    axes = [None] * len(struct.shape)
    own = 1 if ".layers." in path or ".blocks." in path else 0
    axes[-1] = "tensor" if struct.shape[-1] % mesh.shape["tensor"] == 0 else None
    if own < len(axes) - 1 and struct.shape[own] % mesh.shape["fsdp"] == 0:
        axes[own] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*axes))


def check_reads(asked: Asked, arrays: dict[str, jax.Array]) -> None:
    """Each part that lies on this process was asked for once, and nothing else was."""
    tensors = published_tensors({path: array.shape for path, array in arrays.items()}, NAMES)
    expected = {}
    for path, parts in tensors.items():
        shards = {str(shard.index): shard.data.size for shard in arrays[path].addressable_shards}
        layers = 1 if parts[0].layer is None else len(parts)
        expected |= {part.name: [size // layers for size in shards.values()] for part in parts}
    assert asked == expected, {name: (asked[name], sizes) for name, sizes in expected.items() if asked[name] != sizes}


def main(path: str, meshes: str, *network: str) -> None:
    """Exits with an error where a shard differs, or more is read than the shards."""
    if network:
        address, count, number = network
        jax.distributed.initialize(address, int(count), int(number))
    folder = open_folder(path)
    shapes = flatten(define(folder.config).shapes())
    whole = {name: jax.ShapeDtypeStruct(struct.shape, jax.numpy.bfloat16) for name, struct in shapes.items()}
    plain = {name: np.asarray(array) for name, array in flatten(load_params(folder, unflatten(whole))).items()}
    for sizes in meshes.split(","):
        axes = tuple(map(int, sizes.split("x")))
        mesh = jax.make_mesh(axes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
        shardings = {name: split(name, struct, mesh) for name, struct in shapes.items()}
        target = {
            name: jax.ShapeDtypeStruct(struct.shape, struct.dtype, sharding=shardings[name])
            for name, struct in whole.items()
        }
        asked = collections.defaultdict(list)
        tensors.safe_open = functools.partial(open_and_note, asked)
        arrays = flatten(load_params(folder, unflatten(target)))
        check_reads(asked, arrays)
        for name, array in arrays.items():
            assert array.sharding == shardings[name], name
            assert len(array.addressable_shards) == jax.local_device_count()
            for shard in array.addressable_shards:
                np.testing.assert_array_equal(np.asarray(shard.data), plain[name][shard.index], err_msg=name)
        print("equal on", sizes, "devices of", jax.process_count(), "processes")


if __name__ == "__main__":
    main(*sys.argv[1:])
