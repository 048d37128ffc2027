"""Parameters into a Hugging Face folder: the inverse of `load.py`, with the same table of names."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file

from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import family_of
from mmkp_jax.hf.folder import CONFIG
from mmkp_jax.hf.names import Published, pieces_of, published_tensors
from mmkp_jax.hf.tensors import INDEX, WEIGHTS
from mmkp_jax.models.definition import Params, flatten
from mmkp_jax.runtime.atomic import renaming, write_json
from mmkp_jax.runtime.progress import SHOWN_AFTER, Progress

MAX_SHARD_BYTES = 2 * 10**9


class Pending(NamedTuple):
    """A tensor that is made when it is written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def save_params(
    params: Params,
    config_json: Mapping[str, Any],
    path: Path,
    dtype: np.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes `config.json` and the parameters under their published names, with one file's tensors in memory.

    Args:
        params: numpy arrays, or JAX arrays that are fully addressable here.
        config_json: written unchanged; its `model_type` selects the names.
        path: the folder, created if needed.
        dtype: dtype of all tensors in the files; None keeps each one's own.
        max_shard_bytes: most bytes of tensors in a file. A larger tensor has a file to itself.

    Raises:
        InputError: the architecture is not implemented, or the folder holds weights already.
    """
    names = family_of(config_json, CONFIG).names
    arrays = flatten(params)
    pieces = pieces_of(published_tensors({path: array.shape for path, array in arrays.items()}, names))
    tensors = [
        Pending(
            name,
            parts[0].shape,
            np.dtype(dtype or arrays[paths[0]].dtype),
            functools.partial(_fetch, [arrays[path] for path in paths], parts),
        )
        for name, (paths, parts) in pieces.items()
    ]
    save_tensors(tensors, config_json, path, max_shard_bytes)


def save_tensors(
    tensors: Iterable[Pending],
    config_json: Mapping[str, Any],
    path: Path,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes tensors in as few files as `max_shard_bytes` allows, then their index, and `config.json` last.

    Each file appears atomically, so a folder with a `config.json` is complete.

    Raises:
        InputError: the folder holds weights already.
    """
    path.mkdir(parents=True, exist_ok=True)
    if present := sorted(file.name for file in path.glob("model*.safetensors*")):
        raise InputError(f"the folder already holds {present[0]}", str(path), "remove it, or give another folder")
    shards = _shards(tensors, max_shard_bytes)
    files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = [WEIGHTS]
    with Progress(len(files), units="files", label="writing", delay=SHOWN_AFTER) as bar:
        for file, shard in zip(files, shards, strict=True):
            _save_shard(shard, path / file)
            bar.advance()
    if len(shards) > 1:
        write_json(path / INDEX, _index(files, shards))
    write_json(path / CONFIG, config_json)


def _fetch(arrays: Sequence[Any], parts: Sequence[Published]) -> np.ndarray:
    pieces = [array if part.layer is None else array[part.layer] for array, part in zip(arrays, parts, strict=True)]
    return np.asarray(pieces[0]) if len(pieces) == 1 else np.concatenate(pieces)


def _shards(tensors: Iterable[Pending], max_shard_bytes: int) -> list[list[Pending]]:
    shards: list[list[Pending]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(each.nbytes for each in shards[-1]) + tensor.nbytes > max_shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    return shards


def _index(files: Sequence[str], shards: Sequence[Sequence[Pending]]) -> dict[str, Any]:
    size = sum(tensor.nbytes for shard in shards for tensor in shard)
    weight_map = {tensor.name: file for file, shard in zip(files, shards, strict=True) for tensor in shard}
    return {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}


def _save_shard(shard: Sequence[Pending], file: Path) -> None:
    arrays = {tensor.name: np.ascontiguousarray(tensor.make(), tensor.dtype) for tensor in shard}
    with renaming(file) as part:
        save_file(arrays, part, {"format": "pt"})  # which transformers requires
