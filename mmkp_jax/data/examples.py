"""From a record to the tree that is packed, and to its size, which needs no picture decoded."""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from mmkp_jax.data.forest import Geometry, Tree
from mmkp_jax.data.geometry import Grid, patch_layout
from mmkp_jax.data.images import grid_of, sized_patches
from mmkp_jax.data.posts import Record
from mmkp_jax.data.prompts import Template, cot_target, keyphrase_target, prompt_tokens

Branch = Literal["sft", "cot"]
BOTH: tuple[Branch, ...] = ("sft", "cot")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a post is fed to the model: the same in training, evaluation and prediction."""

    template: Template
    geometry: Geometry
    min_pixels: int
    """Of the resized picture."""
    max_pixels: int
    max_text_tokens: int
    """The end of a longer text is left out."""
    zero_shot: bool = False
    """Whether the prompt tells the output's format."""


class Size(NamedTuple):
    """The slots that one post's parts take in a row."""

    trunk: int
    """Tokens of the prompt but its last."""
    sft: int
    """Tokens, and as many labels, of the SFT target."""
    cot: int
    """Likewise of the CoT target; 0 for a post without one."""
    patches: int
    windows: int


def grids_of(record: Record, recipe: Recipe) -> tuple[Grid, ...]:
    """The grid of the record's picture, or none, from its width and height."""
    if not record.image:
        return ()
    return (grid_of(record.height, record.width, min_pixels=recipe.min_pixels, max_pixels=recipe.max_pixels),)


def prompt_of(record: Record, recipe: Recipe) -> np.ndarray:
    """The record's prompt, int32 [T]; nothing of the targets is in it."""
    return prompt_tokens(
        record.text,
        grids_of(record, recipe),
        recipe.template,
        max_text_tokens=recipe.max_text_tokens,
        zero_shot=recipe.zero_shot,
    )


def size_of(record: Record, recipe: Recipe) -> Size:
    """The record's size under `recipe`."""
    tree = _without_picture(record, recipe, BOTH)
    geometry = recipe.geometry
    layouts = [patch_layout(g, window_side=geometry.window_side, merge=geometry.merge) for g in tree.grids]
    return Size(
        trunk=len(tree.prompt) - 1,
        sft=len(tree.sft),
        cot=len(tree.cot),
        patches=sum(len(layout.source_P) for layout in layouts),
        windows=sum(len(layout.window_length_W) for layout in layouts),
    )


def tree_of(record: Record, recipe: Recipe, branches: tuple[Branch, ...] = BOTH) -> Tree:
    """The record as a tree with the targets in `branches`; without any, what is predicted from.

    Raises:
        ImageError: its picture cannot be decoded.
    """
    tree = _without_picture(record, recipe, branches)
    if not record.image:
        return tree
    size, grid, patches = sized_patches(record.image, min_pixels=recipe.min_pixels, max_pixels=recipe.max_pixels)
    if (grid,) != tree.grids:
        raise ValueError(f"record {record.id!r} tells of {record.width} x {record.height} pixels, not {size}")
    return dataclasses.replace(tree, patches=(patches,))


def _without_picture(record: Record, recipe: Recipe, branches: tuple[Branch, ...]) -> Tree:
    nothing = np.zeros(0, np.int32)
    with_cot = "cot" in branches and record.cot is not None
    return Tree(
        prompt=prompt_of(record, recipe),
        sft=keyphrase_target(record.keyphrases, recipe.template) if "sft" in branches else nothing,
        cot=cot_target(record.cot, record.keyphrases, recipe.template) if with_cot else nothing,
        grids=grids_of(record, recipe),
    )
