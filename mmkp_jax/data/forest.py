"""A batch is a forest: examples as trees, several trees packed in a row, in numpy.

B rows, T token slots, P patch slots, C channels x height x width of a patch, W window tiles, M label slots, S examples.

A tree is laid out trunk, CoT branch, SFT branch. The trunk is the prompt without its last token; a branch begins with
its own copy of that token, so each label has exactly one token that predicts it, and ends before its last label, which
predicts nothing. A branch's positions go on from the trunk's, as if it stood there alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmkp_jax.data.geometry import Grid, mrope_positions, patch_layout

TRUNK, SFT, COT = 0, 1, 2
"""Branch numbers of a tree's tokens."""


@dataclasses.dataclass(frozen=True)
class RowSize:
    """The slots of a row; every array of a batch has these sizes."""

    tokens: int
    patches: int
    windows: int
    labels: int
    examples: int


class Forest(NamedTuple):
    """Packed rows, as the step takes them. Slots that hold nothing are padding: segment, image and weight 0."""

    token_BT: np.ndarray
    """int32: token numbers."""
    segment_BT: np.ndarray
    """int32: which example of the row a token belongs to, from 1; 0 is padding."""
    branch_BT: np.ndarray
    """int32: 0 trunk, 1 SFT target, 2 CoT target."""
    position_BT3: np.ndarray
    """int32: M-RoPE position (time, row, column)."""
    merged_BT: np.ndarray
    """int32: the row's merged patch that an image token stands for; -1 for text."""
    label_slot_BM: np.ndarray
    """int32: the token that predicts this label."""
    label_BM: np.ndarray
    """int32: the token number to predict."""
    weight_BM: np.ndarray
    """float32: 1 where the label counts, 0 in an empty slot."""
    patch_BPC: np.ndarray
    """uint8: RGB values of a patch, channel by channel, in window order (`geometry.PatchLayout`)."""
    image_BP: np.ndarray
    """int32: which picture of the row a patch belongs to, from 1; 0 is padding."""
    patch_position_BP2: np.ndarray
    """int32: (row, column) of the patch in its picture."""
    window_BW: np.ndarray
    """int32: how many patches each window holds; the row's patches fill its windows one after the other."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What the layout must know of the model: `window_side` in merged patches, `merge` in patches a side."""

    image_token: int
    window_side: int = 4
    merge: int = 2
    patch_values: int = 3 * 14 * 14


@dataclasses.dataclass(frozen=True)
class Tree:
    """One example: a prompt and its targets, as token numbers.

    `prompt` ends with a text token; its pictures are runs of the image token, one for each merged patch, and
    `patches` holds their values, uint8 [P, C], in the order of transformers' image processor; without any, the tree
    can be measured, not planted. A target is what the model is to write, its end token included; an absent one is
    empty. Token numbers may be given as lists.

    Raises:
        ValueError: the prompt is empty, token numbers are none, or patches are not those of the grids.
    """

    prompt: np.ndarray
    sft: np.ndarray
    cot: np.ndarray
    grids: tuple[Grid, ...] = ()
    patches: tuple[np.ndarray, ...] = ()

    def __post_init__(self):
        tokens = {name: _token_numbers(name, getattr(self, name)) for name in ("prompt", "sft", "cot")}
        if not len(tokens["prompt"]):
            raise ValueError("the prompt is empty: the first label is predicted from its last token")
        grids = tuple(_grid(n, grid) for n, grid in enumerate(self.grids, start=1))
        patches = tuple(np.asarray(values) for values in self.patches)
        if patches:
            _check_patches(grids, patches)
        for name, value in {**tokens, "grids": grids, "patches": patches}.items():
            object.__setattr__(self, name, value)


def _token_numbers(name: str, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(tokens)
    if array.shape == (0,):
        return np.zeros(0, np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > np.iinfo(np.int32).max:
        raise ValueError(f"{name} is {_described(array)}, not a list of token numbers from 0 on")
    return array.astype(np.int32, copy=False)


def _grid(n: int, grid: Grid) -> Grid:
    array = np.asarray(grid)
    if array.shape != (2,) or array.dtype.kind not in "iu":
        raise ValueError(f"picture {n} has the grid {grid}, not (patches down, patches across)")
    return int(array[0]), int(array[1])


def _check_patches(grids: Sequence[Grid], patches: Sequence[np.ndarray]) -> None:
    if len(patches) != len(grids):
        raise ValueError(f"there are patches of {len(patches)} pictures and grids of {len(grids)}")
    for n, ((h, w), values) in enumerate(zip(grids, patches, strict=True), start=1):
        if values.dtype != np.uint8 or values.ndim != 2 or len(values) != h * w:
            raise ValueError(f"picture {n} is {_described(values)}, not uint8 [{h * w}, C] for its grid of {h} x {w}")


def _described(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def tree_size(tree: Tree, geometry: Geometry) -> RowSize:
    """The slots that `tree` takes in a row."""
    targets = [t for t in (tree.sft, tree.cot) if len(t)]
    layouts = [patch_layout(g, window_side=geometry.window_side, merge=geometry.merge) for g in tree.grids]
    return RowSize(
        tokens=len(tree.prompt) - 1 + sum(map(len, targets)),
        patches=sum(h * w for h, w in tree.grids),
        windows=sum(len(layout.window_length_W) for layout in layouts),
        labels=sum(map(len, targets)),
        examples=1,
    )


def empty_rows(rows: int, size: RowSize, geometry: Geometry) -> Forest:
    """A batch of `rows` rows of nothing but padding.

    Raises:
        ValueError: a row's patches are not whole merged patches.
    """
    if size.patches % geometry.merge**2:
        raise ValueError(f"{size.patches} patch slots of a row are no multiple of {geometry.merge**2}, a merged patch")
    T, P, M = size.tokens, size.patches, size.labels
    return Forest(
        token_BT=np.zeros((rows, T), np.int32),
        segment_BT=np.zeros((rows, T), np.int32),
        branch_BT=np.zeros((rows, T), np.int32),
        position_BT3=np.zeros((rows, T, 3), np.int32),
        merged_BT=np.full((rows, T), -1, np.int32),
        label_slot_BM=np.zeros((rows, M), np.int32),
        label_BM=np.zeros((rows, M), np.int32),
        weight_BM=np.zeros((rows, M), np.float32),
        patch_BPC=np.zeros((rows, P, geometry.patch_values), np.uint8),
        image_BP=np.zeros((rows, P), np.int32),
        patch_position_BP2=np.zeros((rows, P, 2), np.int32),
        window_BW=np.zeros((rows, size.windows), np.int32),
    )


def plant(rows: Sequence[Sequence[Tree]], size: RowSize, geometry: Geometry) -> Forest:
    """Lays out each row's trees, in order, in a batch of static `size`.

    Raises:
        ValueError: the trees of a row do not fit, a row's patches are not whole merged patches, or a tree's prompt,
            pictures and grids do not belong together.
    """
    forest = empty_rows(len(rows), size, geometry)
    for b, trees in enumerate(rows):
        _check_fit(b, trees, size, geometry)
        row = Forest(*(array[b] for array in forest))  # views: writing here fills the batch
        slot = patch = window = label = image = 0
        for segment, tree in enumerate(trees, start=1):
            try:
                _check_pictures(tree, geometry)
                merged = patch // geometry.merge**2
                for grid, values in zip(tree.grids, tree.patches, strict=True):
                    image += 1
                    patch, window = _lay_picture(row, grid, values, image, patch, window, geometry)
                slot, label = _lay_tokens(row, tree, segment, slot, label, merged, geometry)
            except ValueError as error:
                raise ValueError(f"row {b}, tree {segment}: {error}") from error
    return forest


def _check_fit(b: int, trees: Sequence[Tree], size: RowSize, geometry: Geometry) -> None:
    sizes = [dataclasses.asdict(tree_size(tree, geometry)) for tree in trees]
    for name, slots in dataclasses.asdict(size).items():
        need = sum(s[name] for s in sizes)
        if need > slots:
            raise ValueError(f"row {b} needs {need} {name} and has {slots}")


def _check_pictures(tree: Tree, geometry: Geometry) -> None:
    if len(tree.patches) != len(tree.grids):  # none at all, or the tree would have refused them
        raise ValueError(f"there are {len(tree.grids)} grids and no patches; give the patches of each picture")
    for n, values in enumerate(tree.patches, start=1):
        if values.shape[1] != geometry.patch_values:
            raise ValueError(f"picture {n} has {values.shape[1]} values a patch, not {geometry.patch_values}")


def _lay_picture(
    row: Forest, grid: Grid, values: np.ndarray, image: int, patch: int, window: int, geometry: Geometry
) -> tuple[int, int]:
    """Writes one picture from patch slot `patch` and window slot `window` on; returns the next free ones."""
    layout = patch_layout(grid, window_side=geometry.window_side, merge=geometry.merge)
    end = patch + len(layout.source_P)
    row.patch_BPC[patch:end] = values[layout.source_P]
    row.image_BP[patch:end] = image
    row.patch_position_BP2[patch:end] = layout.position_P2
    next_window = window + len(layout.window_length_W)
    row.window_BW[window:next_window] = layout.window_length_W
    return end, next_window


def _lay_tokens(
    row: Forest, tree: Tree, segment: int, slot: int, label: int, merged: int, geometry: Geometry
) -> tuple[int, int]:
    """Writes one tree from token `slot` and `label` slot on; returns the next free ones.

    `merged` is the row's number of the tree's first merged patch.
    """
    if tree.prompt[-1] == geometry.image_token:
        raise ValueError("a prompt must end with a text token: the first label is predicted from it")
    position_T3, _ = mrope_positions(tree.prompt, tree.grids, image_token=geometry.image_token, merge=geometry.merge)
    start, trunk = slot, len(tree.prompt) - 1
    slot += trunk
    row.token_BT[start:slot] = tree.prompt[:-1]
    row.segment_BT[start:slot] = segment
    row.position_BT3[start:slot] = position_T3[:-1]

    for grid, at in zip(tree.grids, _picture_starts(tree, geometry), strict=True):
        layout = patch_layout(grid, window_side=geometry.window_side, merge=geometry.merge)
        row.merged_BT[start + at : start + at + len(layout.merged_M)] = merged + layout.merged_M
        merged += len(layout.merged_M)

    for branch, target in ((COT, tree.cot), (SFT, tree.sft)):
        end = slot + len(target)
        row.token_BT[slot:end] = np.concatenate([tree.prompt[-1:], target])[:-1]
        row.segment_BT[slot:end] = segment
        row.branch_BT[slot:end] = branch
        row.position_BT3[slot:end] = position_T3[-1] + np.arange(len(target))[:, None]
        row.label_slot_BM[label : label + len(target)] = np.arange(slot, end)
        row.label_BM[label : label + len(target)] = target
        row.weight_BM[label : label + len(target)] = 1
        slot, label = end, label + len(target)
    return slot, label


def _picture_starts(tree: Tree, geometry: Geometry) -> list[int]:
    """The prompt slot at which each picture's run of image tokens begins."""
    image_slots = np.flatnonzero(tree.prompt == geometry.image_token)
    lengths = [h * w // geometry.merge**2 for h, w in tree.grids]
    return [int(image_slots[sum(lengths[:i])]) for i in range(len(lengths))]
