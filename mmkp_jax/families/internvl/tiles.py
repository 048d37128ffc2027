"""The tiles of InternVL3: which grid of squares an image is cut into, and the order of a tile's patches."""

import functools

import numpy as np

Grid = tuple[int, int]
"""Tiles of an image, down and across."""


@functools.lru_cache(maxsize=16)
def grids(most: int) -> tuple[Grid, ...]:
    """All grids of at most `most` tiles, from few tiles to many; of equally many, narrow ones first."""
    found = [(rows, columns) for columns in range(1, most + 1) for rows in range(1, most // columns + 1)]
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))  # stable


def best_grid(height: int, width: int, *, side: int, most: int) -> Grid:
    """The grid of at most `most` tiles whose aspect is nearest to the image's: InternVL's rule, as in transformers.

    Of grids that are equally near, a larger one is taken where the image has more than half of its pixels.

    Args:
        height, width: of the image, in pixels.
        side: of a tile, in pixels.
    """
    aspect, nearest, best = width / height, float("inf"), (1, 1)
    for rows, columns in grids(most):
        distance = abs(aspect - columns / rows)
        is_filled = height * width > 0.5 * side * side * rows * columns
        if distance < nearest or (distance == nearest and is_filled):
            nearest, best = distance, (rows, columns)
    return best


def merge_order(side: int, merge: int) -> np.ndarray:
    """The patches of a square of `side` patches a side, numbered row by row, in the order of merged patches.

    Merged patches come row by row, and the patches of each row by row: then four neighbours that make an image token
    are next to each other, and the pixel shuffle (`ps_version` v2) is a reshape.
    """
    number = np.arange(side * side).reshape(side // merge, merge, side // merge, merge)
    return number.transpose(0, 2, 1, 3).reshape(-1)
