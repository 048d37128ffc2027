"""Random examples for tests: trees of random tokens and images, and transformers' inputs for them."""

from collections.abc import Sequence

import numpy as np

from mmkp_jax.data.forest import Forest, RowSize, Tree, pack_rows, tree_size
from mmkp_jax.families.qwen2_5_vl.config import Qwen2_5_VLConfig
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.families.qwen2_5_vl.geometry import Grid
from mmkp_jax.families.qwen2_5_vl.processor import Qwen2_5_VLProcessor


def processor_of(config: Qwen2_5_VLConfig, **settings: int) -> Qwen2_5_VLProcessor:
    """How the images of a model are laid into rows."""
    return FAMILY.processor(config, settings)


def row_of(tokens: int, patches: int, windows: int, labels: int, examples: int) -> RowSize:
    """The slots of a row, in the order in which tables have them."""
    return RowSize(tokens, labels, examples, {"patches": patches, "windows": windows})


def random_tree(
    seed: int,
    config: Qwen2_5_VLConfig,
    *,
    grids: Sequence[Grid] = ((4, 6),),
    text: int = 9,
    sft: int = 4,
    cot: int = 7,
) -> Tree:
    """A prompt of a few tokens, each image with a few more behind it, `text` tokens; targets of given lengths."""
    rng = np.random.default_rng(seed)

    def draw(n: int) -> np.ndarray:
        return rng.integers(0, 290, n).astype(np.int32)

    parts = [draw(3)]
    for h, w in grids:
        parts += [np.full(h * w // 4, config.image_token_id, np.int32), draw(2)]
    pixels = tuple(rng.integers(0, 256, (h * w, 588), np.uint8) for h, w in grids)
    layouts = tuple(map(processor_of(config).layout_of, grids))
    return Tree(np.concatenate([*parts, draw(text)]), draw(sft), draw(cot), layouts, pixels)


def row_size(rows: Sequence[Sequence[Tree]], config: Qwen2_5_VLConfig, spare: int = 0) -> RowSize:
    """The smallest slots that hold every row, and `spare` more of each (whole merged patches for patches)."""
    processor = processor_of(config)
    sizes = [[tree_size(tree, processor).slots() for tree in trees] for trees in rows]

    def most(name: str) -> int:
        return max(sum(size[name] for size in row) for row in sizes) + spare

    images = {"patches": most("patches") + 3 * spare, "windows": most("windows")}
    return RowSize(most("tokens"), most("labels"), most("examples"), images)


def forest_of(rows: Sequence[Sequence[Tree]], config: Qwen2_5_VLConfig, spare: int = 0) -> Forest:
    """The rows planted in as little room as they need, and `spare` slots of padding."""
    return pack_rows(rows, row_size(rows, config, spare), processor_of(config))
