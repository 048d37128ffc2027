"""The workload of a plan: a config, the geometry of its model, and what its rows hold; no weights are read."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import hf_hub_download
from ml_collections import ConfigDict

from mmkp_jax.data.forest import RowSize, row_size
from mmkp_jax.data.records import open_split
from mmkp_jax.data.run_lines import PAPER_POSTS, updates_line
from mmkp_jax.data.size_index import index
from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import define, known_config
from mmkp_jax.hf.folder import CONFIG, load_tokenizer, open_folder, read_config
from mmkp_jax.hf.preprocessor import training_settings
from mmkp_jax.models.definition import Definition
from mmkp_jax.models.family import Work
from mmkp_jax.models.flops import tree_pairs
from mmkp_jax.models.lora import lora_of
from mmkp_jax.training.batches import (
    branches_of,
    complete_config,
    datasets_of,
    image_processor,
    make_data,
    plan_posts,
    recipe_of,
)
from mmkp_jax.training.feature_cache import planned_features

TYPICAL_FILL = 0.96
"""Share of the limiting slots that typical posts fill (`benchmarks/packing.py`)."""


class RowLoad(NamedTuple):
    """The content of a run's rows."""

    posts: float
    """Posts a row, on average."""
    work: Work
    """Work of a row, on average."""
    steps: int
    """Steps of the run."""
    source: str
    """Where these numbers come from."""


class Workload(NamedTuple):
    """All that planning needs to know, except the machines."""

    config: ConfigDict
    published: Mapping[str, Any]
    """The model's `config.json`."""
    where: str
    """Where `published` was read."""
    definition: Definition
    load: RowLoad

    @property
    def row(self) -> RowSize:
        """The slots of a training row."""
        return row_size(self.config.row, self.definition.processor)

    @property
    def features(self) -> bool:
        """Whether rows hold the frozen tower's features in place of pixels."""
        return planned_features(self.config, self.definition) is not None

    @property
    def updates(self) -> str:
        """The run's updates and their posts, next to the paper's."""
        return updates_line(self.load.steps, self.load.posts * self.config.global_batch_size)

    def with_config(self, **fields: Any) -> "Workload":
        """A copy with other fields of the config; the fields of a section as a mapping."""
        config = self.config.copy_and_resolve_references().unlock()
        config.update(fields)
        return self._replace(config=config.lock(), load=load_of(config, self.definition))

    @property
    def prompt(self) -> RowSize:
        """The row of the longest prompt."""
        processor = image_processor(self.config, self.definition)
        image = processor.largest()
        return RowSize(
            tokens=_round_up(
                self.config.data.max_text_tokens + image.tokens + self.definition.family.template_tokens, 8
            ),
            labels=0,
            examples=1,
            images=dict(zip(processor.slots, image.slots, strict=True)),
        )


def workload_of(config: ConfigDict) -> Workload:
    """The workload of a config, from its model and data where they are on this machine, else from typical figures.

    Raises:
        InputError: the model's `config.json` is not available, or the config cannot be used.
    """
    make_data(config)
    published, where = published_config(config.model.path)
    definition = define(published, where, lora=lora_of(config))
    folder = Path(config.model.path).expanduser()
    images = training_settings(folder, definition.family, definition.config) if folder.is_dir() else {}
    config = complete_config(config, definition, images)
    return Workload(config, published, where, definition, load_of(config, definition))


def published_config(path: str) -> tuple[dict[str, Any], str]:
    """A model's `config.json`, and where it was read; from the hub, only that file is downloaded.

    Raises:
        InputError: it is not available, damaged, or needs what is not implemented.
    """
    file = Path(path).expanduser() / CONFIG
    if not file.is_file():
        if known := known_config(path):
            return dict(known), path
        try:
            file = Path(hf_hub_download(path, CONFIG))
        except Exception as error:  # failures of the network and the hub share no class
            reason = f"its {CONFIG} is not here, and could not be downloaded from the hub ({type(error).__name__})"
            raise InputError(reason, f"config.model.path={path}", "give a Hugging Face folder or a hub id") from None
    return read_config(file), str(file)


def load_of(config: ConfigDict, definition: Definition) -> RowLoad:
    """The content of rows, from the index of the config's data if data and tokenizer are here, else typical posts."""
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
    trunk, *targets = (
        np.concatenate([getattr(part, f"{name}_N") for part in parts])[plan.post_N].astype(np.float64)
        for name in ("trunk", *branches)
    )
    labels = sum(targets)
    work = Work(
        tokens=float((trunk + labels).sum()),
        labels=float(labels.sum()),
        token_pairs=float(tree_pairs(trunk, *targets).sum()),
        images=recipe.processor.work_of_posts(
            np.concatenate([part.slot_NX for part in parts])[plan.post_N], trunk + labels
        ),
    ).times(1 / plan.rows)
    posts = len(plan.post_N)
    return RowLoad(posts / plan.rows, work, training.steps, f"{posts:,} posts of {config.data.path}")


def typical_load(config: ConfigDict, definition: Definition) -> RowLoad:
    """Rows of typical posts, for as many posts as MMKP-V2 has for training."""
    processor = image_processor(config, definition)
    post = definition.family.typical(processor)
    targets = [post[branch] for branch in branches_of(config)]
    images = {kind: post[kind] for kind in processor.slots}
    needs = {"tokens": post["trunk"] + sum(targets), **images, "labels": sum(targets), "examples": 1.0}
    slots = row_size(config.row, processor).slots()
    posts = TYPICAL_FILL * min(slots[name] / need for name, need in needs.items())
    if config.posts_per_step:
        posts = _posts_of_a_step(config, posts) / config.global_batch_size
    work = Work(
        tokens=needs["tokens"],
        labels=needs["labels"],
        token_pairs=float(tree_pairs(post["trunk"], *targets)),
        images=processor.work_of_posts(np.asarray([list(images.values())]), np.asarray([needs["tokens"]])),
    ).times(posts)
    steps = config.total_steps or config.num_epochs * math.ceil(PAPER_POSTS / (posts * config.global_batch_size))
    return RowLoad(posts, work, steps, f"typical: {PAPER_POSTS:,} posts as MMKP-V2's, CMKP's mean lengths")


def _posts_of_a_step(config: ConfigDict, posts: float) -> int:
    """`posts_per_step`, checked against the room of rows that hold `posts` each.

    Raises:
        InputError: the rows have not enough room.
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
