"""Frozen parameters: checkpoints hold their digest alone, and a resumed run must have the same ones."""

from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import Folder


def check_frozen(now: str, saved: str, base: Folder) -> None:
    """Raises `InputError` if the frozen parameters are not those of the run (`saved`)."""
    if now != saved:
        what = "its weights are not those that the run started from"
        hint = "restore the base model of the run (config.model.path), or start in another --workdir"
        raise InputError(what, str(base.path), hint)
