"""Frozen parameters: checkpoints hold their digests alone, and a resumed run must have the same ones."""

from collections.abc import Mapping
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import Folder

SHOWN = 3
"""Number of paths to name."""


def check_frozen(now: Mapping[str, str], saved: Mapping[str, Any], base: Folder) -> None:
    """Raises `InputError`, with their paths, if the frozen parameters are not those of the run (`saved`)."""
    if other := [path for path in sorted(now.keys() | saved.keys()) if now.get(path) != saved.get(path)]:
        more = f" and {len(other) - SHOWN} more" * (len(other) > SHOWN)
        what = f"weights that did not train are not those that the run started from: {', '.join(other[:SHOWN])}{more}"
        raise InputError(what, str(base.path), "restore the base model of the run, or start in another --workdir")
