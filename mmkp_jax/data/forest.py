"""A batch is a forest: examples as trees, several trees packed in a row, in numpy.

B rows, T token slots, A position axes, M label slots, S examples.

A tree is laid out trunk, CoT branch, SFT branch. The trunk is the prompt without its last token; a branch begins with
its own copy of that token, so each label has exactly one token that predicts it, and ends before its last label, which
predicts nothing. A branch's positions continue the trunk's, as if it were the only branch.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmkp_jax.data.feature_store import FeatureKind
from mmkp_jax.data.processor import Layout, Processor
from mmkp_jax.errors import InputError, nearest

TRUNK, SFT, COT = 0, 1, 2
"""Branch numbers of a tree's tokens."""


@dataclasses.dataclass(frozen=True)
class RowSize:
    """The slots of a row; every array of a batch has these sizes."""

    tokens: int
    labels: int
    examples: int
    images: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Slots of each of the family's kinds (`Processor.slots`)."""
    tree_tokens: int = 0
    """Most tokens of a tree, as attention may assume; 0 for as many as a row has."""

    @property
    def longest_tree(self) -> int:
        """Most tokens of a tree."""
        return min(self.tokens, self.tree_tokens or self.tokens)

    def tree_limits(self) -> dict[str, int]:
        """The most slots of each kind that a tree may take."""
        return self.slots() | {"tokens": self.longest_tree}

    def slots(self) -> dict[str, int]:
        """All kinds by name, in the order in which tables have them."""
        return {"tokens": self.tokens, **self.images, "labels": self.labels, "examples": self.examples}

    @classmethod
    def from_slots(cls, slots: Mapping[str, int]) -> "RowSize":
        """The inverse of `slots`."""
        images = dict(slots)
        tokens, labels, examples = (images.pop(name) for name in ("tokens", "labels", "examples"))
        return cls(tokens, labels, examples, images)


def row_size(row: Mapping[str, Any], processor: Processor) -> RowSize:
    """The size that a config's `row` gives, with the family's defaults for slots of images that it leaves out.

    Raises:
        InputError: it gives slots of a kind that the family's images do not take, or too few for them.
    """
    given = dict(row["images"])
    for kind in given:
        if kind not in processor.slots:
            what = f"images of this model take no slots {kind!r}{nearest(kind, processor.slots)}"
            hint = (
                f"use {', '.join(processor.slots)}"
                if processor.slots
                else "the model takes no images: give config.row.images= to drop them"
            )
            raise InputError(what, f"config.row.images.{kind}", hint)
    images = processor.default_slots(row["tokens"]) | given
    slots = {kind: images[kind] for kind in processor.slots}
    size = RowSize(row["tokens"], row["labels"], row["examples"], slots, row["tree_tokens"])
    try:
        processor.empty(0, 0, size.images)
    except ValueError as error:
        raise InputError(str(error), "config.row.images", "give other numbers, or none for the defaults") from None
    return size


class Forest(NamedTuple):
    """Packed rows, as the step takes them. Slots that hold nothing are padding: segment and weight 0."""

    token_BT: np.ndarray
    """int32: token numbers."""
    segment_BT: np.ndarray
    """int32: which example of the row a token belongs to, from 1; 0 is padding."""
    branch_BT: np.ndarray
    """int32: 0 trunk, 1 SFT target, 2 CoT target."""
    position_BTA: np.ndarray
    """int32: position on each of the family's axes."""
    label_slot_BM: np.ndarray
    """int32: the token that predicts this label."""
    label_BM: np.ndarray
    """int32: the token number to predict."""
    weight_BM: np.ndarray
    """float32: 1 where the label counts, 0 in an empty slot."""
    images: Any = ()
    """The family's own NamedTuple of [B, …] arrays; `()` without images."""


def map_arrays(function: Callable[[np.ndarray], Any], forest: Forest, *others: Forest) -> Forest:
    """A forest of the results of `function` on each array and the same array of `others`."""
    parts = [function(*arrays) for arrays in zip(forest[:-1], *(other[:-1] for other in others), strict=True)]
    images = [function(*arrays) for arrays in zip(forest.images, *(other.images for other in others), strict=True)]
    return Forest(*parts, type(forest.images)(*images) if images else ())


@dataclasses.dataclass(frozen=True)
class Tree:
    """One example: a prompt and its targets, as token numbers.

    `prompt` ends with a text token; an image in it is a run of as many image tokens as its layout has. `pixels` holds
    the images' values, uint8, or `features` what the tower makes of them (`feature_store.FeatureKind`); without any,
    the tree can be measured, not packed. A target is what the model is to write, including its end token; an absent one
    is empty. Token numbers may be given as lists.

    Raises:
        ValueError: the prompt is empty, token numbers are none, or pixels are not uint8 of each layout.
    """

    prompt: np.ndarray
    sft: np.ndarray
    cot: np.ndarray
    layouts: tuple[Layout, ...] = ()
    pixels: tuple[np.ndarray, ...] = ()
    features: tuple[np.ndarray, ...] = ()

    def __post_init__(self):
        tokens = {name: _token_numbers(name, getattr(self, name)) for name in ("prompt", "sft", "cot")}
        if not len(tokens["prompt"]):
            raise ValueError("the prompt is empty: the first label is predicted from its last token")
        layouts, pixels = tuple(self.layouts), tuple(np.asarray(values) for values in self.pixels)
        if pixels and len(pixels) != len(layouts):
            raise ValueError(f"there are pixels of {len(pixels)} images and layouts of {len(layouts)}")
        for number, values in enumerate(pixels, start=1):
            if values.dtype != np.uint8:
                raise ValueError(f"image {number} is {dtype_and_shape(values)}, not uint8")
        for name, value in {**tokens, "layouts": layouts, "pixels": pixels}.items():
            object.__setattr__(self, name, value)


def _token_numbers(name: str, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(tokens)
    if array.shape == (0,):
        return np.zeros(0, np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > np.iinfo(np.int32).max:
        raise ValueError(f"{name} is {dtype_and_shape(array)}, not a list of token numbers from 0 on")
    return array.astype(np.int32, copy=False)


def dtype_and_shape(array: np.ndarray) -> str:
    """Dtype and shape, for messages."""
    return f"{array.dtype} {list(array.shape)}"


def tree_size(tree: Tree, processor: Processor) -> RowSize:
    """The slots that `tree` takes in a row."""
    targets = [t for t in (tree.sft, tree.cot) if len(t)]
    return RowSize(
        tokens=len(tree.prompt) - 1 + sum(map(len, targets)),
        labels=sum(map(len, targets)),
        examples=1,
        images=dict(zip(processor.slots, slots_of(tree.layouts, processor), strict=True)),
    )


def slots_of(layouts: Sequence[Layout], processor: Processor) -> tuple[int, ...]:
    """The slots of each kind that images of these layouts take together."""
    return tuple(sum(layout.slots[kind] for layout in layouts) for kind in range(len(processor.slots)))


def empty_rows(rows: int, size: RowSize, processor: Processor, features: FeatureKind | None = None) -> Forest:
    """A batch of `rows` rows of padding only, for pixels or for `features`.

    Raises:
        ValueError: the family's images cannot be written into such rows.
    """
    T, M = size.tokens, size.labels
    images = processor.empty(rows, T, size.images)
    if features:
        values = np.zeros((rows, size.images[processor.slots[0]], features.width), np.dtype(features.dtype))
        images = images._replace(**{processor.values: values})
    return Forest(
        token_BT=np.zeros((rows, T), np.int32),
        segment_BT=np.zeros((rows, T), np.int32),
        branch_BT=np.zeros((rows, T), np.int32),
        position_BTA=np.zeros((rows, T, processor.axes), np.int32),
        label_slot_BM=np.zeros((rows, M), np.int32),
        label_BM=np.zeros((rows, M), np.int32),
        weight_BM=np.zeros((rows, M), np.float32),
        images=images,
    )


def pack_rows(
    rows: Sequence[Sequence[Tree]], size: RowSize, processor: Processor, features: FeatureKind | None = None
) -> Forest:
    """Lays out each row's trees, in order, in a batch of static `size`.

    Args:
        features: rows hold features of this kind, which trees have in place of pixels.

    Raises:
        ValueError: the trees of a row do not fit, the family's images cannot be written into such rows, or a tree's
            prompt, layouts and pixels do not match.
    """
    forest = empty_rows(len(rows), size, processor, features)
    for b, trees in enumerate(rows):
        _check_fit(b, trees, size, processor)
        row = map_arrays(lambda array, b=b: array[b], forest)  # views: writing here fills the batch
        slot = label = image = 0
        starts = (0,) * len(processor.slots)
        for segment, tree in enumerate(trees, start=1):
            try:
                values, name = (tree.features, "features") if features else (tree.pixels, "pixels")
                if len(values) != len(tree.layouts):  # there are none: the tree refuses other numbers
                    raise ValueError(f"there are {len(tree.layouts)} layouts and no {name}; give those of each image")
                first, (slot, label) = slot, _lay_tokens(row, tree, segment, slot, label, processor)
                for layout, each, at in zip(tree.layouts, values, _image_starts(tree, processor), strict=True):
                    image += 1
                    pixels = None if features else each
                    processor.lay(row.images, layout, pixels, number=image, token=first + at, starts=starts)
                    if features:
                        getattr(row.images, processor.values)[starts[0] : starts[0] + layout.slots[0]] = each
                    starts = tuple(start + taken for start, taken in zip(starts, layout.slots, strict=True))
            except ValueError as error:
                raise ValueError(f"row {b}, tree {segment}: {error}") from error
    return forest


def _check_fit(b: int, trees: Sequence[Tree], size: RowSize, processor: Processor) -> None:
    sizes = [tree_size(tree, processor).slots() for tree in trees]
    for name, slots in size.slots().items():
        need = sum(s[name] for s in sizes)
        if need > slots:
            raise ValueError(f"row {b} needs {need} {name} and has {slots}")
    if (longest := max((s["tokens"] for s in sizes), default=0)) > size.longest_tree:
        raise ValueError(f"row {b} has a tree of {longest} tokens, and a tree may have {size.longest_tree}")
    largest = max((layout.slots[0] for tree in trees for layout in tree.layouts), default=0)
    if largest > (limit := processor.longest_image or largest):
        raise ValueError(f"row {b} has an image of {largest} {processor.slots[0]}, and an image may have {limit}")


def _lay_tokens(row: Forest, tree: Tree, segment: int, slot: int, label: int, processor: Processor) -> tuple[int, int]:
    """Writes one tree, beginning at token `slot` and label slot `label`; returns the next free ones."""
    if tree.prompt[-1] == processor.image_token:
        raise ValueError("a prompt must end with a text token: the first label is predicted from it")
    position_TA = processor.positions(tree.prompt, tree.layouts)
    start, trunk = slot, len(tree.prompt) - 1
    slot += trunk
    row.token_BT[start:slot] = tree.prompt[:-1]
    row.segment_BT[start:slot] = segment
    row.position_BTA[start:slot] = position_TA[:-1]
    for branch, target in ((COT, tree.cot), (SFT, tree.sft)):
        end = slot + len(target)
        row.token_BT[slot:end] = np.concatenate([tree.prompt[-1:], target])[:-1]
        row.segment_BT[slot:end] = segment
        row.branch_BT[slot:end] = branch
        row.position_BTA[slot:end] = position_TA[-1] + np.arange(len(target))[:, None]
        row.label_slot_BM[label : label + len(target)] = np.arange(slot, end)
        row.label_BM[label : label + len(target)] = target
        row.weight_BM[label : label + len(target)] = 1
        slot, label = end, label + len(target)
    return slot, label


def _image_starts(tree: Tree, processor: Processor) -> list[int]:
    """The prompt slot at which each image's run of image tokens begins."""
    image_slots = np.flatnonzero(tree.prompt == processor.image_token)
    lengths = [layout.tokens for layout in tree.layouts]
    return [int(image_slots[sum(lengths[:i])]) for i in range(len(lengths))]
