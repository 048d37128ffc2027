"""Attention backends by name, and the one that a platform uses."""

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.ops import tokamax
from mmkp_jax.ops.attention import DENSE, Backend
from mmkp_jax.ops.splash import SPLASH

BACKENDS: dict[str, Backend] = {"dense": DENSE, "splash": SPLASH, "tokamax": tokamax.TOKAMAX}


def backend_name(setting: str, platform: str) -> str:
    """The backend for `config.attention`: a name, or `auto` for the best one on a JAX platform.

    Raises:
        InputError: there is no such backend, or it is not installed.
    """
    if setting == "auto":
        return "splash" if platform == "tpu" else "dense"
    if setting not in BACKENDS:
        raise InputError(
            f"unknown attention {setting!r}{nearest(setting, ['auto', *BACKENDS])}",
            "config.attention",
            f"choose one of auto, {', '.join(BACKENDS)}",
        )
    if setting == "tokamax":
        tokamax.library()
    return setting
