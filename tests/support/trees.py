"""Random examples for tests: trees of random tokens and pictures, and what transformers would be fed for them."""

import functools
from collections.abc import Sequence

import numpy as np

from mmkp_jax.data.forest import Forest, Geometry, RowSize, Tree, plant, tree_size
from mmkp_jax.data.geometry import Grid
from mmkp_jax.families.qwen2_5_vl.config import Qwen2_5_VLConfig
from mmkp_jax.families.qwen2_5_vl.model import Qwen2_5_VL
from mmkp_jax.models.definition import define_from


@functools.cache
def geometry_of(config: Qwen2_5_VLConfig) -> Geometry:
    """What the layout must know of a model."""
    return define_from(Qwen2_5_VL, config).geometry


def random_tree(
    seed: int,
    config: Qwen2_5_VLConfig,
    *,
    grids: Sequence[Grid] = ((4, 6),),
    text: int = 9,
    sft: int = 4,
    cot: int = 7,
) -> Tree:
    """A prompt of a few tokens, each picture with a few more behind it, `text` tokens; targets of given lengths."""
    rng = np.random.default_rng(seed)

    def draw(n: int) -> np.ndarray:
        return rng.integers(0, 290, n).astype(np.int32)

    parts = [draw(3)]
    for h, w in grids:
        parts += [np.full(h * w // 4, config.image_token_id, np.int32), draw(2)]
    patches = tuple(rng.integers(0, 256, (h * w, 588), np.uint8) for h, w in grids)
    return Tree(np.concatenate([*parts, draw(text)]), draw(sft), draw(cot), tuple(grids), patches)


def row_size(rows: Sequence[Sequence[Tree]], config: Qwen2_5_VLConfig, spare: int = 0) -> RowSize:
    """The smallest slots that hold every row, and `spare` more of each (whole merged patches for patches)."""
    geometry = geometry_of(config)
    sizes = [[tree_size(tree, geometry) for tree in trees] for trees in rows]

    def most(name: str) -> int:
        return max(sum(getattr(size, name) for size in row) for row in sizes) + spare

    return RowSize(most("tokens"), most("patches") + 3 * spare, most("windows"), most("labels"), most("examples"))


def forest_of(rows: Sequence[Sequence[Tree]], config: Qwen2_5_VLConfig, spare: int = 0) -> Forest:
    """The rows planted in as little room as they need, and `spare` slots of padding."""
    return plant(rows, row_size(rows, config, spare), geometry_of(config))
