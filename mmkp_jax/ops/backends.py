"""Attention backends by name, the one that a platform uses, and attention with the limits of a run's rows."""

import dataclasses

import jax

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.ops import tokamax
from mmkp_jax.ops.attention import DENSE, Attention, Backend
from mmkp_jax.ops.sliced import SLICED
from mmkp_jax.ops.splash import SPLASH

BACKENDS: dict[str, Backend] = {"dense": DENSE, "sliced": SLICED, "splash": SPLASH, "tokamax": tokamax.TOKAMAX}


@dataclasses.dataclass(frozen=True)
class RowAttention:
    """Attention over packed rows: a backend, and the limits that it may assume."""

    backend: str = "sliced"
    """A name of `BACKENDS`."""
    longest_tree: int | None = None
    """Most tokens of a tree; None for any."""
    longest_image: int | None = None
    """Most patches of an image; None for any."""

    def forest(self, segment_BT: jax.Array, branch_BT: jax.Array) -> Attention:
        """Attention by the rule of the forest."""
        return BACKENDS[self.backend].forest(segment_BT, branch_BT, self.longest_tree)

    def images(self, image_BP: jax.Array) -> Attention:
        """Attention of every patch to all patches of its image."""
        return BACKENDS[self.backend].images(image_BP, self.longest_image)

    def intervals(self, first_BT: jax.Array, end_BT: jax.Array, keys: int) -> Attention:
        """Attention of every query to the keys from its first up to its end, of `keys`; 0 where the two are equal."""
        return BACKENDS[self.backend].intervals(first_BT, end_BT, keys)


ANY_ROWS = RowAttention()
"""Attention without limits, by the default backend."""


def backend_name(setting: str, platform: str) -> str:
    """The backend for `config.attention`: a name, or `auto` for the best one on a JAX platform.

    Raises:
        InputError: there is no such backend, or it is not installed.
    """
    if setting == "auto":
        return "splash" if platform == "tpu" else "sliced"
    if setting not in BACKENDS:
        raise InputError(
            f"unknown attention {setting!r}{nearest(setting, ['auto', *BACKENDS])}",
            "config.attention",
            f"choose one of auto, {', '.join(BACKENDS)}",
        )
    if setting == "tokamax":
        tokamax.library()
    return setting
