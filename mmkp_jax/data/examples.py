"""From a record to the tree that is packed, and to its size, for which no image is decoded."""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from mmkp_jax.data.feature_store import FeatureStore
from mmkp_jax.data.forest import Tree, slots_of
from mmkp_jax.data.images import with_image
from mmkp_jax.data.posts import Record
from mmkp_jax.data.processor import Layout, Processor
from mmkp_jax.data.prompts import Template, cot_target, keyphrase_target, prompt_tokens

Branch = Literal["sft", "cot"]
BOTH: tuple[Branch, ...] = ("sft", "cot")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a post becomes model input: the same in training, evaluation and prediction."""

    template: Template
    processor: Processor
    max_text_tokens: int
    """Most tokens of a text; the end of a longer one is left out."""
    zero_shot: bool = False
    """Whether the prompt describes the output's format."""


class Size(NamedTuple):
    """The slots that one post's parts take in a row."""

    trunk: int
    """Tokens of the prompt except its last."""
    sft: int
    """Tokens, and as many labels, of the SFT target."""
    cot: int
    """Tokens, and as many labels, of the CoT target; 0 for a post without one."""
    image: int
    """Image tokens of the prompt."""
    slots: tuple[int, ...]
    """Slots of each of the family's kinds (`Processor.slots`)."""


def layouts_of(record: Record, recipe: Recipe) -> tuple[Layout, ...]:
    """The layout of the record's image, from its width and height; empty without an image, or for a family without.

    Raises:
        ImageError: the image's shape cannot be used.
    """
    if not record.image or recipe.processor.image_token is None:
        return ()
    return (recipe.processor.layout(record.height, record.width),)


def _prompt(record: Record, layouts: tuple[Layout, ...], recipe: Recipe) -> np.ndarray:
    """The record's prompt, int32 [T]; it depends on nothing of the targets."""
    return prompt_tokens(
        record.text,
        recipe.processor.placeholder(layouts[0]) if layouts else None,
        recipe.template,
        max_text_tokens=recipe.max_text_tokens,
        zero_shot=recipe.zero_shot,
    )


def size_of(record: Record, recipe: Recipe) -> Size:
    """The record's size under `recipe`."""
    tree = measured_tree(record, recipe, BOTH)
    return Size(
        trunk=len(tree.prompt) - 1,
        sft=len(tree.sft),
        cot=len(tree.cot),
        image=sum(layout.tokens for layout in tree.layouts),
        slots=slots_of(tree.layouts, recipe.processor),
    )


def tree_of(
    record: Record, recipe: Recipe, branches: tuple[Branch, ...] = BOTH, features: FeatureStore | None = None
) -> Tree:
    """The record as a tree with the targets in `branches`; without any, the input of prediction.

    Args:
        features: where the features of its image are read, in place of the image.

    Raises:
        ImageError: its image cannot be decoded.
        InputError: its features cannot be read.
    """
    tree = measured_tree(record, recipe, branches)
    if not tree.layouts:
        return tree
    (layout,) = tree.layouts
    if features:
        return dataclasses.replace(tree, features=(features.read(record.image, layout.slots[0]),))

    def preprocessed(image: Image.Image) -> np.ndarray:
        if recipe.processor.layout(image.height, image.width) != layout:
            raise ValueError(
                f"record {record.id!r} has an image of {image.size}, not {record.width} x {record.height} pixels"
            )
        return recipe.processor.pixels(image, layout)

    return dataclasses.replace(tree, pixels=(with_image(record.image, preprocessed),))


def measured_tree(record: Record, recipe: Recipe, branches: tuple[Branch, ...] = ()) -> Tree:
    """The record as a tree without pixels: no image is decoded."""
    nothing = np.zeros(0, np.int32)
    with_cot = "cot" in branches and record.cot is not None
    layouts = layouts_of(record, recipe)
    return Tree(
        prompt=_prompt(record, layouts, recipe),
        sft=keyphrase_target(record.keyphrases, recipe.template) if "sft" in branches else nothing,
        cot=cot_target(record.cot, record.keyphrases, recipe.template) if with_cot else nothing,
        layouts=layouts,
    )
