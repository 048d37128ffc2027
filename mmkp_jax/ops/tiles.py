"""Window attention's layout: patches of a row to dense tiles, one a window, and back.

B rows, P patches, W windows, Z patches of a whole window. A window's patches follow each other in the row, so its
tile is a slice; a partial window leaves the rest of its tile empty. Both ways are gathers, and each is the other's
transpose, so that the backward pass gathers too (a scatter-add would be slow, and on a GPU not repeatable).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Tiles(NamedTuple):
    """The slots of patches in tiles, and the patches in the tiles' slots."""

    patch_BWZ: jax.Array
    """int32: the patch in each slot of a tile (any, where the slot is empty)."""
    filled_BWZ: jax.Array
    """bool: the slot holds a patch."""
    slot_BP: jax.Array
    """int32: each patch's slot among the row's W * Z (any, for padding)."""
    real_BP: jax.Array
    """bool: the patch is in a window."""


def lay_tiles(window_BW: jax.Array, patches: int, tile_size: int) -> Tiles:
    """Tiles of windows that hold `window_BW` patches each, in the order of the row's `patches` slots."""
    end_BW = jnp.cumsum(window_BW, axis=-1)
    start_BW = end_BW - window_BW
    within_Z = jnp.arange(tile_size)
    filled_BWZ = within_Z < window_BW[..., None]
    patch_BWZ = jnp.where(filled_BWZ, start_BW[..., None] + within_Z, 0)

    patch_P = jnp.arange(patches)
    window_BP = jnp.sum(end_BW[:, None, :] <= patch_P[:, None], axis=-1)
    real_BP = patch_P < end_BW[:, -1:]
    first_BP = jnp.take_along_axis(start_BW, jnp.minimum(window_BP, window_BW.shape[1] - 1), axis=1)
    slot_BP = jnp.where(real_BP, window_BP * tile_size + patch_P - first_BP, 0)
    return Tiles(patch_BWZ, filled_BWZ, slot_BP, real_BP)


@jax.custom_vjp
def to_tiles(x_BPX: jax.Array, tiles: Tiles) -> jax.Array:
    """Patches [B, P, ...] as tiles [B, W, Z, ...], empty slots 0."""
    B, W, Z = tiles.patch_BWZ.shape
    x = _gather(x_BPX, tiles.patch_BWZ.reshape(B, W * Z), tiles.filled_BWZ.reshape(B, W * Z))
    return x.reshape(B, W, Z, *x_BPX.shape[2:])


@jax.custom_vjp
def from_tiles(x_BWZX: jax.Array, tiles: Tiles) -> jax.Array:
    """Tiles [B, W, Z, ...] as patches [B, P, ...], padding 0."""
    B, W, Z = tiles.patch_BWZ.shape
    return _gather(x_BWZX.reshape(B, W * Z, *x_BWZX.shape[3:]), tiles.slot_BP, tiles.real_BP)


def _gather(x: jax.Array, index: jax.Array, keep: jax.Array) -> jax.Array:
    tail = (1,) * (x.ndim - 2)
    picked = jnp.take_along_axis(x, index.reshape(*index.shape, *tail), axis=1)
    return jnp.where(keep.reshape(*keep.shape, *tail), picked, jnp.zeros((), x.dtype))


to_tiles.defvjp(lambda x, tiles: (to_tiles(x, tiles), tiles), lambda tiles, g: (from_tiles(g, tiles), None))
from_tiles.defvjp(lambda x, tiles: (from_tiles(x, tiles), tiles), lambda tiles, g: (to_tiles(g, tiles), None))
