"""Compiled programs on disk, so that the next start of a program does not compile them again."""

import os
import warnings
from pathlib import Path

import jax


def keep_compiled(folder: Path) -> None:
    """Keeps compiled programs in `folder`, unless the environment names a place (`JAX_COMPILATION_CACHE_DIR`)."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(folder))
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")  # it is compiled instead


def user_cache() -> Path:
    """The user's folder for compiled programs, for commands that have no work directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "mmkp_jax" / "compiled"
