"""The limits of a resized picture that a model folder tells of: read, and set to others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import read_json

PREPROCESSOR = "preprocessor_config.json"

FILES = {"processor_config.json": "image_processor", PREPROCESSOR: None}
"""The files that may tell, and under which key; transformers, and so vLLM, take the first that does."""

LIMITS = (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge"))
"""What the least and the most are called: beside `size`, where they count first, and in it."""


def pixel_limits(folder: Path, default: tuple[int, int]) -> tuple[int, int]:
    """The least and the most pixels of a resized picture; of `default` where the folder does not tell.

    Raises:
        InputError: the file that tells cannot be read.
    """
    for file, _, told in _tellers(folder):
        size = told.get("size") or {}
        try:
            limits = [told.get(beside) or size.get(inside) for beside, inside in LIMITS]
            return tuple(int(limit or other) for limit, other in zip(limits, default, strict=True))
        except (ValueError, TypeError, AttributeError):
            what, mend = "its limits of a picture cannot be read", "copy it from the base checkpoint"
            raise InputError(what, str(file), mend) from None
    return default


def with_pixel_limits(folder: Path, limits: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """The files that tell, by name, with other limits under the names that each uses.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    found = {}
    for file, content, told in _tellers(folder):
        _set(told, limits)
        found[file.name] = content
    if not found:
        what = f"the folder has no {PREPROCESSOR}, which tells of pixels"
        raise InputError(what, str(folder), "copy it from the base checkpoint")
    return found


def _tellers(folder: Path) -> Iterator[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """Each file with its content, and the part of it that tells; the one that counts comes first."""
    for name, key in FILES.items():
        if (folder / name).is_file():
            content = read_json(folder / name)
            told = content if key is None else content.get(key)
            if isinstance(told, dict):
                yield folder / name, content, told


def _set(told: dict[str, Any], limits: tuple[int, int]) -> None:
    size = told.get("size")
    parts = [told, size] if isinstance(size, dict) else [told]
    for names, limit in zip(LIMITS, limits, strict=True):
        used = [(part, name) for part in parts for name in names if name in part]
        for part, name in used or [(told, names[0])]:
            part[name] = limit
