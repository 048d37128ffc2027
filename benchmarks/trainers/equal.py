"""Losses and gradients of the two sides, compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import safe_open

TOLERANCE = {"float32": (1e-4, 1e-3), "bfloat16": (1e-2, 1e-1)}
"""Largest relative error of a post's loss, and of a tensor's gradient, by the dtype of the computation."""


class GradientError(NamedTuple):
    """How far two gradients are apart, relative to the second."""

    tensors: int
    of_all: float
    """Norm of the difference over the norm, of all tensors together."""
    worst: float
    """The same of the tensor where it is largest."""
    worst_tensor: str


def loss_error(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative error of a post's loss."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def gradient_error(ours: Path, theirs: Path) -> GradientError:
    """Compares two folders of published tensors.

    Raises:
        SystemExit: they do not hold the same tensors.
    """
    a, b = _tensors(ours), _tensors(theirs)
    if a.keys() != b.keys():
        raise SystemExit(f"gradients of one side only: {sorted(a.keys() ^ b.keys())}")
    differences, norms = {}, {}
    for name in a:
        mine, other = (_read(where[name], name) for where in (a, b))
        if mine.shape != other.shape:
            raise SystemExit(f"{name}: {mine.shape} is not {other.shape}")
        differences[name], norms[name] = float(np.linalg.norm(mine - other)), float(np.linalg.norm(other))
    errors = {name: differences[name] / max(norms[name], 1e-30) for name in a}
    worst = max(errors, key=errors.__getitem__)
    of_all = np.linalg.norm(list(differences.values())) / np.linalg.norm(list(norms.values()))
    return GradientError(len(a), float(of_all), errors[worst], worst)


def _tensors(folder: Path) -> dict[str, Path]:
    """The file of each tensor."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            found |= dict.fromkeys(tensors.keys(), file)
    return found


def _read(file: Path, name: str) -> np.ndarray:
    with safe_open(file, framework="numpy") as tensors:
        return tensors.get_tensor(name)
