"""A folder's tensors into parameters on devices, tensor by tensor; each process reads its own shards."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import Folder
from mmkp_jax.hf.names import Published, compact, published_name, published_tensors, source_of
from mmkp_jax.hf.tensors import DTYPES, Index, Tensor, read
from mmkp_jax.models.definition import Params, base_shapes, flatten, unflatten
from mmkp_jax.models.family import Names
from mmkp_jax.models.nf4 import ABSMAX, is_quantised, quantise, unquantised_shape
from mmkp_jax.runtime.progress import SHOWN_AFTER, Progress


def load_params(folder: Folder, target: Params, every: Params | None = None) -> Params:
    """Loads the parameters that `target` describes.

    Host memory holds one published tensor at a time. In a run of many processes, all call this
    with the same target.

    Args:
        folder: the folder of the tensors.
        target: `jax.ShapeDtypeStruct`s. An array gets the dtype and the sharding of its struct; without a
            sharding, it is on the first local device. A matrix in 4 bits (`models.nf4`) is made here.
        every: the shapes of all published parameters (`Definition.base_shapes`), where `target` lacks some.

    Raises:
        InputError: tensors are missing, unexpected, of another shape, or no floats; one error lists all.
        ValueError: a sharding splits the layers of a stack.
    """
    wanted, found = check_tensors(folder, target if every is None else every)
    return load_tensors(target, wanted, found)


def load_tensors(target: Params, wanted: Mapping[str, list[Published]], found: Mapping[str, Tensor]) -> Params:
    """Loads the parameters that `target` describes from tensors that were checked.

    Args:
        target: as for `load_params`.
        wanted: the published tensors of each parameter by its path.
        found: the location of each tensor by its published name.
    """
    structs = flatten(target)
    # The largest first: temporary memory is then smallest when the devices are fullest.
    sources = {path: unquantised_shape(path, struct.shape)[0] for path, struct in structs.items()}
    order = sorted(
        (path for path in structs if not path.endswith(f".{ABSMAX}")),
        key=lambda path: math.prod(wanted[sources[path]][0].shape),
        reverse=True,
    )
    loaded = {}
    with Progress(len(order), units="arrays", label="loading weights", delay=SHOWN_AFTER) as bar:
        for path in order:
            parts = wanted[sources[path]]
            tensors = [part.of(found[part.name]) for part in parts]
            if is_quantised(path):
                absmax = f"{sources[path]}.{ABSMAX}"
                loaded[path], loaded[absmax] = _load_quantised(tensors, parts[0].layer, structs[path], structs[absmax])
            else:
                loaded[path] = (_load_whole if parts[0].layer is None else _load_stack)(tensors, structs[path])
            bar.advance()
    return unflatten({path: loaded[path] for path in structs})


def check_tensors(folder: Folder, target: Params) -> tuple[dict[str, list[Published]], dict[str, Tensor]]:
    """Checks names, shapes and dtypes in the headers of a folder's files against the parameters of `target`.

    Returns:
        The published tensors of each parameter by its path, and the location of each tensor by its name.

    Raises:
        InputError: as `load_params`.
    """
    names = folder.family.names
    shapes = {path: struct.shape for path, struct in flatten(base_shapes(target)).items()}
    wanted = published_tensors(shapes, names)
    return wanted, find_tensors(folder, wanted, names)


def find_tensors(folder: Folder, wanted: Mapping[str, list[Published]], names: Names) -> dict[str, Tensor]:
    """The folder's tensors by published name.

    Raises:
        InputError: they are not exactly the wanted ones; one error lists all.
    """
    expected = {part.name: part.shape for parts in wanted.values() for part in parts}
    heads = {source_of(path, names).name: path for path in names.tied}
    spare = {name for name, path in heads.items() if path not in wanted}
    found: dict[str, Tensor] = {}
    unexpected, others = [], {}
    for name, tensor in folder.tensors.items():
        published = published_name(name, names)
        if published in spare:
            continue
        if published not in expected or published in found:
            unexpected.append(name)
            continue
        found[published] = tensor
        if tensor.shape != expected[published]:
            shapes = f"{list(tensor.shape)} instead of {list(expected[published])}"
            others.setdefault(f"of shape {shapes}", []).append(name)
        if tensor.dtype not in DTYPES:
            others.setdefault(f"of dtype {tensor.dtype}, which is no float of 16 or 32 bits", []).append(name)
    missing = [name for name in expected if name not in found]

    problems = {"missing": missing, "unexpected": unexpected, **others}
    if any(problems.values()):
        hint = "take weights and config.json from one checkpoint, not quantised and without adapters"
        if heads.keys() & set(missing):
            hint += "; where the head is the embedding, set tie_word_embeddings to true in config.json"
        raise InputError(
            "; ".join(f"{problem}: {compact(tensors)}" for problem, tensors in problems.items() if tensors),
            str(folder.path),
            hint,
        )
    return found


def _load_whole(tensors: list[Tensor], struct: jax.ShapeDtypeStruct) -> jax.Array:
    (tensor,) = tensors
    sharding = struct.sharding or _default_sharding()
    array = _put(tensor, sharding)
    if array.dtype == struct.dtype:
        return array
    return jax.jit(_cast, static_argnums=1, out_shardings=sharding)(array, struct.dtype)


def _load_stack(tensors: list[Tensor], struct: jax.ShapeDtypeStruct) -> jax.Array:
    sharding = struct.sharding or _default_sharding()
    of_layer = _layer_sharding(sharding)
    set_layer = jax.jit(_set_layer, donate_argnums=0, out_shardings=sharding)
    stack = jax.jit(_zeros, static_argnums=(0, 1), out_shardings=sharding)(struct.shape, struct.dtype)
    for i, tensor in enumerate(tensors):
        stack = set_layer(stack, _put(tensor, of_layer), i)
        stack.block_until_ready()  # otherwise the host reads ahead, and holds every waiting layer
    return stack


def _load_quantised(
    tensors: list[Tensor], layer: int | None, codes: jax.ShapeDtypeStruct, absmax: jax.ShapeDtypeStruct
) -> tuple[jax.Array, jax.Array]:
    """Codes and `absmax` of a matrix or of a stack, quantised a layer at a time on the devices."""
    shardings = tuple(struct.sharding or _default_sharding() for struct in (codes, absmax))
    if layer is None:
        (tensor,) = tensors
        return jax.jit(quantise, out_shardings=shardings)(_put(tensor, shardings[0]))
    of_layers = tuple(map(_layer_sharding, shardings))
    make = jax.jit(quantise, out_shardings=of_layers)
    put = [jax.jit(_set_layer, donate_argnums=0, out_shardings=sharding) for sharding in shardings]
    stacks = [
        jax.jit(_zeros, static_argnums=(0, 1), out_shardings=sharding)(struct.shape, struct.dtype)
        for sharding, struct in zip(shardings, (codes, absmax), strict=True)
    ]
    for i, tensor in enumerate(tensors):
        made = make(_put(tensor, of_layers[0]))
        stacks = [put_one(stack, one, i) for put_one, stack, one in zip(put, stacks, made, strict=True)]
        jax.block_until_ready(stacks)  # as in `_load_stack`
    return stacks[0], stacks[1]


def _put(tensor: Tensor, sharding: Sharding) -> jax.Array:
    """The tensor in the file's dtype; a part that several devices of this process hold is read once."""
    parts: dict[tuple[range, ...], np.ndarray] = {}  # a slice cannot be a key before Python 3.12

    def part(index: Index) -> np.ndarray:
        key = tuple(range(length)[span] for length, span in zip(tensor.shape, index, strict=True))
        if key not in parts:
            parts[key] = read(tensor, index)
        return parts[key]

    return jax.make_array_from_callback(tensor.shape, sharding, part)


def _cast(array: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return array.astype(dtype)


def _zeros(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jnp.zeros(shape, dtype)


def _set_layer(stack: jax.Array, layer: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, layer.astype(stack.dtype), i, axis=0)


def _default_sharding() -> Sharding:
    return SingleDeviceSharding(jax.local_devices()[0])


def _layer_sharding(sharding: Sharding) -> Sharding:
    """The sharding of one layer of a stack; the axis of layers must not be divided."""
    if isinstance(sharding, SingleDeviceSharding):
        return sharding
    if not isinstance(sharding, NamedSharding):
        raise ValueError(f"a stack of layers takes a NamedSharding, not {sharding}")
    layers, *rest = sharding.spec or (None,)
    if layers is not None:
        raise ValueError(f"{sharding.spec} splits the layers of a stack; split another axis instead")
    return NamedSharding(sharding.mesh, PartitionSpec(*rest), memory_kind=sharding.memory_kind)
