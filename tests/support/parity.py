"""transformers' Qwen2.5-VL and ours from the same random weights, and the logits of both."""

from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from mmkp_jax.data.forest import TRUNK, Tree
from mmkp_jax.families.qwen2_5_vl.config import Qwen2_5_VLConfig
from mmkp_jax.families.qwen2_5_vl.processor import CLIP_MEAN, CLIP_STD
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.definition import Definition, Params
from tests.support.needs_torch import needs_torch
from tests.support.tiny import hf_model, write_model

if TYPE_CHECKING:
    import torch

BOUND = 1e-5
"""Tolerance, as a share of the largest value, in float32. Both sides are a few 1e-7 of it a layer from float64."""


def ours_in(folder: Path, config: Qwen2_5_VLConfig) -> tuple[Definition, Params]:
    """The model of a geometry, by way of a folder."""
    write_model(folder, config)
    opened = open_folder(str(folder))
    definition = define(opened.config)
    assert definition.config == config
    return definition, load_params(opened, definition.shapes())


def pair_of(config: Qwen2_5_VLConfig, folder: Path) -> tuple["torch.nn.Module", Definition, Params]:
    """transformers' model, our definition and our parameters, both read from one folder."""
    needs_torch()
    definition, params = ours_in(folder, config)
    return hf_model(folder), definition, params


def pixel_values(tree: Tree) -> "torch.Tensor":
    """What transformers' image processor makes of a tree's images: normalised, both frames."""
    values = np.concatenate(tree.pixels).reshape(-1, 3, 1, 196).astype(np.float32) / 255
    mean, std = (np.asarray(s, np.float32).reshape(3, 1, 1) for s in (CLIP_MEAN, CLIP_STD))
    return needs_torch().from_numpy(((values - mean) / std).repeat(2, axis=2).reshape(len(values), -1))


def their_inputs(tree: Tree, target: np.ndarray, config) -> "dict[str, torch.Tensor]":
    """The prompt and all but the last token of a target, as a plain sequence."""
    torch = needs_torch()
    tokens = torch.from_numpy(np.concatenate([tree.prompt, target[:-1]]).astype(np.int64))[None]
    inputs = {"input_ids": tokens, "mm_token_type_ids": (tokens == config.image_token_id).int()}
    if tree.layouts:
        inputs["pixel_values"] = pixel_values(tree)
        inputs["image_grid_thw"] = torch.tensor([(1, *layout.shape) for layout in tree.layouts])
    return inputs


def their_logits(model, tree: Tree, target: np.ndarray, config) -> np.ndarray:
    with needs_torch().no_grad():
        return model(**their_inputs(tree, target, config)).logits[0].float().numpy()


def our_logits(definition, params, forest, dtype=jnp.float32) -> np.ndarray:
    @jax.jit
    def run(params, forest):
        model = definition.bind(params)
        return jnp.einsum(
            "btd,vd->btv", model(forest, dtype), model.head.astype(dtype), preferred_element_type=jnp.float32
        )

    return np.asarray(run(params, forest))


def sequence(forest, row: int, segment: int, branch: int) -> np.ndarray:
    """The slots of an example's trunk and one branch, in order."""
    here = forest.segment_BT[row] == segment
    return np.flatnonzero(here & np.isin(forest.branch_BT[row], [TRUNK, branch]))


def relative_error(ours, theirs) -> float:
    """The largest difference, as a share of their largest value."""
    theirs = np.asarray(theirs)
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())
