"""Attention by slices: blocks of queries, each with the keys that it may see, on any platform; exact, gradients too.

B rows, T tokens, P patches, S keys of a slice.

In a row of trees nothing looks later in the row, nor before its own tree: with trees of at most L tokens, the queries
from s to e see keys from s - L + 1 to e. A patch sees its image, in both directions. So slices are static, and no array
has tokens × tokens or patches × patches numbers, nor a mask. Who lays the rows holds the limits
(`data.forest.RowSize.tree_tokens`, `Processor.largest`); without one, slices reach to the row's ends.

Where every query has an interval of keys of its own, only the queries are divided: each block takes all keys.
"""

import functools

import jax

from mmkp_jax.ops.attention import (
    WHOLE,
    Attention,
    Backend,
    Block,
    blockwise_attention,
    forest_mask,
    interval_mask,
    same_segment_mask,
    zero_where_blind,
)

BLOCK = 128
"""Queries of a block, or a multiple of it; slices of keys begin and end at multiples too."""

MAX_BLOCKS = 8
"""Blocks of a row of tokens at most: they are unrolled in the program."""

MAX_IMAGE_BLOCKS = 16
"""Blocks of a row of patches at most."""

SHORTEST = 256
"""Tokens or patches of the shortest row that is divided into blocks."""


def forest_slices(tokens: int, longest: int | None) -> list[tuple[slice, slice]]:
    """(queries, keys) of each block of a row of trees of at most `longest` tokens (None: of any)."""
    reach = tokens if longest is None else longest - 1
    return [
        (slice(start, end), slice(max(0, start - reach) // BLOCK * BLOCK, end))
        for start, end in _blocks(tokens, MAX_BLOCKS)
    ]


def image_slices(patches: int, longest: int | None) -> list[tuple[slice, slice]]:
    """(queries, keys) of each block of a row of images of at most `longest` patches (None: of any)."""
    reach = patches if longest is None else longest - 1
    return [
        (
            slice(start, end),
            slice(max(0, start - reach) // BLOCK * BLOCK, min(patches, -(-(end + reach) // BLOCK) * BLOCK)),
        )
        for start, end in _blocks(patches, MAX_IMAGE_BLOCKS)
    ]


def pairs(slices: list[tuple[slice, slice]]) -> float:
    """(query, key) pairs that are computed for a row, masked ones included."""
    return float(sum((q.stop - q.start) * (k.stop - k.start) for q, k in slices))


def _blocks(length: int, most: int) -> list[tuple[int, int]]:
    if length < SHORTEST:
        return [(0, length)]
    size = BLOCK * -(-length // (BLOCK * most))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _forest(segment_BT: jax.Array, branch_BT: jax.Array, longest: int | None = None) -> Attention:
    slices = forest_slices(segment_BT.shape[1], longest)
    blocks = [Block(*each, forest_mask(segment_BT, branch_BT, *each)) for each in slices]
    return functools.partial(blockwise_attention, blocks=blocks)


def _images(image_BP: jax.Array, longest: int | None = None) -> Attention:
    slices = image_slices(image_BP.shape[1], longest)
    blocks = [Block(*each, same_segment_mask(image_BP, *each)) for each in slices]
    return functools.partial(blockwise_attention, blocks=blocks)


def _intervals(first_BT: jax.Array, end_BT: jax.Array, keys: int) -> Attention:
    slices = [slice(*each) for each in _blocks(first_BT.shape[1], MAX_IMAGE_BLOCKS)]
    blocks = [Block(queries, WHOLE, interval_mask(first_BT, end_BT, keys, queries)) for queries in slices]
    return zero_where_blind(functools.partial(blockwise_attention, blocks=blocks), first_BT, end_BT)


SLICED = Backend(_forest, _images, _intervals)
