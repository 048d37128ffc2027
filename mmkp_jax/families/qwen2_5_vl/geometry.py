"""Qwen2.5-VL's windows and M-RoPE positions, in numpy.

A grid is (h, w): the patches of one image down and across, both multiples of the merge side. Its patches are stored in
*window order*: the windows row by row, the merged patches of a window row by row, and the patches of a merged patch
row by row. The windows at the right and lower edge may be partial.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Grid = tuple[int, int]


class PatchLayout(NamedTuple):
    """One image's patches in window order; P patches, M = P / merge² merged patches, W windows."""

    source_P: np.ndarray
    """int32: the index of each patch in transformers' order, which is the merged patches row by row."""
    position_P2: np.ndarray
    """int32: (row, column) of each patch in the grid."""
    window_length_W: np.ndarray
    """int32: patches in each window; a whole one holds (window_side * merge)²."""
    merged_M: np.ndarray
    """int32: the index of the m-th image token (row by row) among the merged patches in window order."""


@functools.lru_cache(maxsize=4096)
def patch_layout(grid: Grid, *, window_side: int, merge: int = 2) -> PatchLayout:
    """The window order of an image of `grid` patches, with windows of `window_side` merged patches a side.

    Same order as transformers' `get_vision_window_index`.

    Raises:
        ValueError: a side is not a positive multiple of `merge`.
    """
    if min(grid) <= 0 or grid[0] % merge or grid[1] % merge:
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} patches is not made of {merge} x {merge} merged patches")
    rows, columns = grid[0] // merge, grid[1] // merge
    row_M, column_M = (axis.ravel() for axis in np.indices((rows, columns)))
    window_M = (row_M // window_side) * -(-columns // window_side) + column_M // window_side
    order_M = np.argsort(window_M, kind="stable")  # a stable sort keeps the rows of a window in order
    merged_M = np.argsort(order_M, kind="stable")

    inner = np.arange(merge * merge)
    source_P = (order_M[:, None] * merge * merge + inner).ravel()
    position_P2 = np.stack(
        [
            (row_M[order_M, None] * merge + inner // merge).ravel(),
            (column_M[order_M, None] * merge + inner % merge).ravel(),
        ],
        axis=-1,
    )
    window_length_W = np.bincount(window_M) * merge * merge
    layout = PatchLayout(*(a.astype(np.int32) for a in (source_P, position_P2, window_length_W, merged_M)))
    for array in layout:
        array.flags.writeable = False  # shared by all callers with this grid
    return layout


def mrope_positions(
    tokens_T: np.ndarray, grids: Sequence[Grid], *, image_token: int, merge: int = 2
) -> tuple[np.ndarray, int]:
    """M-RoPE positions of a prompt: int32 [T, 3] of (time, row, column), and the position after its last token.

    Text counts up on all three axes; an image's tokens share one time and count rows and columns from it; what follows
    an image continues from its largest position (transformers' `get_rope_index` for still images).

    Args:
        tokens_T: the prompt, with each image as a run of `image_token`, one for each merged patch.
        grids: the images' grids in order, in patches.

    Raises:
        ValueError: the image tokens do not match `grids`.
    """
    position_T3 = np.empty((len(tokens_T), 3), np.int32)
    is_image_T = np.asarray(tokens_T) == image_token
    expected = sum(h * w // merge**2 for h, w in grids)
    if is_image_T.sum() != expected:
        raise ValueError(f"{is_image_T.sum()} image tokens for images of {expected} merged patches")
    slot, following, left = 0, 0, list(grids)
    while slot < len(tokens_T):
        if not is_image_T[slot]:
            position_T3[slot] = following
            slot, following = slot + 1, following + 1
            continue
        rows, columns = (side // merge for side in left.pop(0))
        if not is_image_T[slot : slot + rows * columns].all():
            raise ValueError(f"text is inside the image tokens of an image, at token {slot}")
        offset_3M = np.stack([np.zeros(rows * columns), *(a.ravel() for a in np.indices((rows, columns)))])
        position_T3[slot : slot + rows * columns] = following + offset_3M.T
        slot, following = slot + rows * columns, following + max(rows, columns)
    return position_T3, following
