"""The tiles of Llama 3.2 Vision: the canvas that an image is put on, and its size there.

A canvas is (rows, columns) of square tiles.
"""

import functools
import math

Canvas = tuple[int, int]


@functools.lru_cache(maxsize=16)
def canvases(most: int) -> tuple[Canvas, ...]:
    """All canvases of at most `most` tiles, in the order of their numbers, which begin at 1."""
    return tuple((rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1))


def best_canvas(height: int, width: int, *, side: int, most: int) -> Canvas:
    """The canvas for an image: Meta's rule, as in transformers' `get_optimal_tiled_canvas`.

    It is the one on which the image is enlarged least, or, if it is too large for all of them, shrunk least; of equal
    ones the smallest, and of equally large ones the first.

    Args:
        height, width: of the image, in pixels.
        side: of a tile, in pixels.
        most: tiles of an image at most.
    """

    def scale(canvas: Canvas) -> float:
        rows, columns = canvas
        return min(rows * side / height, columns * side / width)

    every = canvases(most)
    holding = [scale(canvas) for canvas in every if scale(canvas) >= 1]
    chosen = min(holding) if holding else max(map(scale, every))
    return min((canvas for canvas in every if scale(canvas) == chosen), key=math.prod)


def size_on(canvas: Canvas, height: int, width: int, *, side: int) -> tuple[int, int]:
    """The (height, width) in pixels of an image on its canvas, with its aspect kept, rounded down.

    A small image grows until one of its sides is a tile's, and none exceeds its canvas.
    """
    sides = (height, width)
    targets = [min(max(length, side), tiles * side) for length, tiles in zip(sides, canvas, strict=True)]
    scale_h, scale_w = (target / length for target, length in zip(targets, sides, strict=True))
    if scale_w < scale_h:
        return min(math.floor(height * scale_w) or 1, targets[0]), targets[1]
    return targets[0], min(math.floor(width * scale_h) or 1, targets[1])
