"""Adapters merged into the base's weights: W + s B A in float32, rounded once to the file's dtype.

W is what the base's files hold: of a base that was held in 4 bits too, so that the sum is not what was trained then.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from mmkp_jax.hf.fetch import fetch
from mmkp_jax.hf.names import Published, pieces_of
from mmkp_jax.hf.tensors import DTYPES, Tensor, read
from mmkp_jax.models.definition import Definition, Params, flatten
from mmkp_jax.models.lora import Pair

Delta = Callable[[int | None], np.ndarray]
"""The change of a layer's matrix (None where there are no layers), float32 [out, in]."""


def merged_tensors(
    definition: Definition, trained: Params, parts: Mapping[str, list[Published]], found: Mapping[str, Tensor]
) -> dict[str, Callable[[], np.ndarray]]:
    """A function that makes each tensor of a linear with an adapter, by its name in the base's files.

    Of several hosts, all call each of them.

    Args:
        parts: the published tensors of each parameter by its path.
        found: the location of each tensor by its published name.
    """
    arrays = flatten(trained)
    deltas = {
        f"{path}.weight": functools.partial(_delta, arrays, pair, definition.lora.scale)
        for path, pair in definition.adapters.items()
    }
    return {
        found[name].name: functools.partial(_merged, found[name], pieces, [deltas.get(path) for path in paths])
        for name, (paths, pieces) in pieces_of(parts).items()
        if not deltas.keys().isdisjoint(paths)
    }


def _delta(arrays: Mapping[str, jax.Array], pair: Pair, scale: float, layer: int | None) -> np.ndarray:
    a, b = (fetch(arrays[path], layer, np.dtype(np.float32)) for path in pair)
    return np.float32(scale) * (b @ a)


def _merged(tensor: Tensor, pieces: Sequence[Published], deltas: Sequence[Delta | None]) -> np.ndarray:
    """The tensor, whose pieces are parts of its rows; a piece without an adapter stays as it is."""
    made = []
    for piece, delta in zip(pieces, deltas, strict=True):
        part = piece.of(tensor)
        weight = read(part, (slice(None),) * len(part.shape))
        if delta is not None:
            weight = (weight.astype(np.float32) + delta(piece.layer)).astype(DTYPES[tensor.dtype])
        made.append(weight)
    return made[0] if len(made) == 1 else np.concatenate(made)
