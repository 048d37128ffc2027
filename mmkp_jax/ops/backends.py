"""The ways to compute attention, by name, and which one a platform takes."""

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.ops.attention import DENSE, Backend

BACKENDS: dict[str, Backend] = {"dense": DENSE}


def backend_name(setting: str, platform: str) -> str:
    """The backend for `config.attention`: a name, or `auto` for the best one on a JAX platform.

    Raises:
        InputError: there is no such backend.
    """
    if setting == "auto":
        return "dense"
    if setting not in BACKENDS:
        raise InputError(
            f"unknown attention {setting!r}{nearest(setting, ['auto', *BACKENDS])}",
            "config.attention",
            f"choose one of auto, {', '.join(BACKENDS)}",
        )
    return setting
