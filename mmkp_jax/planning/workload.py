"""What is planned: a config, the geometry of its model, and what its rows hold; no weights are read."""

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import hf_hub_download
from ml_collections import ConfigDict

from mmkp_jax.data.forest import RowSize
from mmkp_jax.data.records import open_split
from mmkp_jax.data.run_lines import PAPER_POSTS, updates_line
from mmkp_jax.data.size_index import index
from mmkp_jax.errors import InputError
from mmkp_jax.families.qwen2_5_vl.config import QWEN2_5_VL_3B, QWEN2_5_VL_7B, Qwen2_5_VLConfig
from mmkp_jax.hf.folder import CONFIG, load_tokenizer, open_folder, read_config
from mmkp_jax.models.definition import Definition, define
from mmkp_jax.models.flops import Work, tree_pairs
from mmkp_jax.training.batches import branches_of, datasets_of, plan_posts, recipe_of

PUBLISHED = {"Qwen/Qwen2.5-VL-3B-Instruct": QWEN2_5_VL_3B, "Qwen/Qwen2.5-VL-7B-Instruct": QWEN2_5_VL_7B}
"""Geometries that are known without asking the hub."""


class TypicalPost(NamedTuple):
    """The mean post of CMKP under the published tokenizer (`benchmarks/packing.py`), in slots of a row."""

    trunk: float = 514.8
    sft: float = 4.9
    cot: float = 141.9
    patches: float = 1782.9
    windows: float = 30.2


TYPICAL_FILL = 0.96
"""Of the slots that bind, in rows of such posts (`benchmarks/packing.py`)."""

TEMPLATE_TOKENS = 64
"""Of a prompt, beside its picture and the post's text; at most."""


class Load(NamedTuple):
    """What a run's rows hold."""

    posts: float
    """A row, on average."""
    work: Work
    """Of a row, on average."""
    steps: int
    """Of the run."""
    source: str
    """Where this is known from."""


class Subject(NamedTuple):
    """All that planning must know, but for the machines."""

    config: ConfigDict
    published: Mapping[str, Any]
    """The model's `config.json`."""
    where: str
    definition: Definition
    load: Load

    @property
    def row(self) -> RowSize:
        """The slots of a training row."""
        return RowSize(**self.config.row)

    @property
    def updates(self) -> str:
        """The run's updates and their posts, beside the paper's."""
        return updates_line(self.load.steps, self.load.posts * self.config.global_batch_size)

    def but(self, **fields: Any) -> "Subject":
        """The same with other fields of the config; those of a part of it as a mapping."""
        config = self.config.copy_and_resolve_references().unlock()
        config.update(fields)
        return self._replace(config=config.lock(), load=load_of(config, self.definition))

    @property
    def prompt(self) -> RowSize:
        """The row of the longest prompt."""
        data, row = self.config.data, self.config.row
        merge = self.definition.geometry.merge
        patches = _round_up(data.max_pixels // self.definition.config.vision.patch_size**2, 8)
        return RowSize(
            tokens=_round_up(data.max_text_tokens + patches // merge**2 + TEMPLATE_TOKENS, 8),
            patches=patches,
            windows=-(-patches * row.windows // max(row.patches, 1)),
            labels=0,
            examples=1,
        )


def subject_of(config: ConfigDict) -> Subject:
    """Reads what there is of a config's model and data on this machine; the rest is known or typical.

    Raises:
        InputError: the model's `config.json` cannot be had, or something in the config cannot be used.
    """
    if config.make:
        importlib.import_module(config.make).make()
    published, where = published_config(config.model.path)
    definition = define(published, where)
    return Subject(config, published, where, definition, load_of(config, definition))


def published_config(path: str) -> tuple[dict[str, Any], str]:
    """A model's `config.json`, and where it was read; of a hub id that file only.

    Raises:
        InputError: it is not available, is damaged, or asks for what is not implemented.
    """
    file = Path(path).expanduser() / CONFIG
    if not file.is_file():
        if path in PUBLISHED:
            return published_json(PUBLISHED[path]), path
        try:
            file = Path(hf_hub_download(path, CONFIG))
        except Exception as error:  # the network's and the hub's failures have no class in common
            reason = f"there is no {CONFIG} of it here, and the hub does not give one ({type(error).__name__})"
            raise InputError(reason, f"config.model.path={path}", "give a Hugging Face folder or a hub id") from None
    return read_config(file), str(file)


def published_json(config: Qwen2_5_VLConfig) -> dict[str, Any]:
    """The fields of a `config.json` that tell a geometry."""
    tower = config.vision
    return {
        "model_type": "qwen2_5_vl",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "tie_word_embeddings": config.tie_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": {"type": "mrope", "mrope_section": list(config.mrope_section)},
        "image_token_id": config.image_token_id,
        "vision_config": {
            "depth": tower.depth,
            "hidden_size": tower.hidden_size,
            "intermediate_size": tower.intermediate_size,
            "num_heads": tower.num_heads,
            "out_hidden_size": tower.out_hidden_size,
            "fullatt_block_indexes": list(tower.full_attention_layers),
            "window_size": tower.window_size,
            "patch_size": tower.patch_size,
            "spatial_merge_size": tower.merge_size,
            "temporal_patch_size": tower.temporal_patch_size,
            "in_channels": tower.in_channels,
            "rope_theta": tower.rope_theta,
        },
    }


def load_of(config: ConfigDict, definition: Definition) -> Load:
    """What rows hold: by the index of the config's data where they and the tokenizer are here, else typically."""
    try:
        datasets = datasets_of(config)
    except InputError:  # not on this machine
        return typical_load(config, definition)
    if not Path(config.model.path).expanduser().is_dir():
        return typical_load(config, definition)
    recipe = recipe_of(config, definition, load_tokenizer(open_folder(config.model.path)))
    training = plan_posts(config, recipe)
    parts = [index(open_split(each.path, "train"), recipe, Path(each.path) / "index") for each in datasets]
    plan, branches = training.plans[0], branches_of(config)
    trunk, patches, windows, *targets = (
        np.concatenate([getattr(part, f"{name}_N") for part in parts])[plan.post_N].astype(np.float64)
        for name in ("trunk", "patches", "windows", *branches)
    )
    labels = sum(targets)
    work = Work(
        tokens=float((trunk + labels).sum()),
        patches=float(patches.sum()),
        merged=float(patches.sum()) / definition.geometry.merge**2,
        labels=float(labels.sum()),
        token_pairs=float(tree_pairs(trunk, *targets).sum()),
        picture_pairs=float(np.square(patches).sum()),
        window_pairs=float(np.sum(np.square(patches) / np.maximum(windows, 1))),
    ).times(1 / plan.rows)
    posts = len(plan.post_N)
    return Load(posts / plan.rows, work, training.steps, f"{posts:,} posts of {config.data.path}")


def typical_load(config: ConfigDict, definition: Definition) -> Load:
    """Rows of typical posts, and as many of them as MMKP-V2 has for training."""
    post, row = TypicalPost(), config.row
    targets = [getattr(post, branch) for branch in branches_of(config)]
    needs = {
        "tokens": post.trunk + sum(targets),
        "patches": post.patches,
        "windows": post.windows,
        "labels": sum(targets),
        "examples": 1.0,
    }
    posts = TYPICAL_FILL * min(row[name] / need for name, need in needs.items())
    if config.posts_per_step:
        posts = _posts_of_a_step(config, posts) / config.global_batch_size
    work = Work(
        tokens=needs["tokens"],
        patches=post.patches,
        merged=post.patches / definition.geometry.merge**2,
        labels=needs["labels"],
        token_pairs=float(tree_pairs(post.trunk, *targets)),
        picture_pairs=post.patches**2,
        window_pairs=post.patches**2 / post.windows,
    ).times(posts)
    steps = config.total_steps or config.num_epochs * math.ceil(PAPER_POSTS / (posts * config.global_batch_size))
    return Load(posts, work, steps, f"typical: {PAPER_POSTS:,} posts as MMKP-V2's, CMKP's mean lengths")


def _posts_of_a_step(config: ConfigDict, posts: float) -> int:
    """`posts_per_step`, where rows that hold so many `posts` each have room for them.

    Raises:
        InputError: they have not.
    """
    rows = config.global_batch_size
    if config.posts_per_step > math.ceil(posts) * rows:
        what = f"{config.posts_per_step:,} posts of a step are more than {rows:,} rows of {posts:.1f} typical posts"
        needed = math.ceil(config.posts_per_step / math.ceil(posts))
        hint = f"give config.global_batch_size={needed} or more, or larger rows"
        raise InputError(what, "config.posts_per_step", hint)
    return config.posts_per_step


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
