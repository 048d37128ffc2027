"""The data side of a run: from a config and a model folder to planned batches and to prompts for evaluation."""

import importlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from mmkp_jax.data.examples import BOTH, Branch, Recipe
from mmkp_jax.data.forest import COT, SFT, RowSize, row_size
from mmkp_jax.data.mixing import JoinedRecords, posts_of_epoch
from mmkp_jax.data.pipeline import Feed
from mmkp_jax.data.plan import EpochPlan, plan_epoch
from mmkp_jax.data.processor import Processor
from mmkp_jax.data.records import Split, open_split, split_names
from mmkp_jax.data.run_lines import chains_line, updates_line
from mmkp_jax.data.size_index import LeftOut, index, select_posts, sizes_of
from mmkp_jax.errors import InputError, nearest
from mmkp_jax.models.definition import Definition
from mmkp_jax.training.objectives import OWN_BRANCHES, objective

KEYPHRASE_TOKENS = 64
"""Upper bound of the tokens of a post's keyphrases as a target, for the default of `row.tree_tokens`."""

WORKERS = 2
"""Processes that load data, where the config leaves that to the machine and it has twice as many cores."""


class Dataset(NamedTuple):
    """A prepared dataset to train on."""

    path: str
    weight: float = 1.0
    """Number of times that an epoch holds each of its posts."""


class TrainingData(NamedTuple):
    """The data of a run: what loads them, which posts each step takes, and what is left out."""

    feed: Feed
    plans: list[EpochPlan]
    """Plans of the epochs that the run needs; the last may be cut short."""
    steps: int
    """Optimizer steps of the run."""
    left_out: list[LeftOut]
    has_cot_N: np.ndarray
    """Whether each of the feed's records has a chain of thought (bool)."""
    strategy: str
    known_tests: int = 0
    """Number of test posts of the first dataset with the same text as a training post."""

    @property
    def posts(self) -> np.ndarray:
        """Numbers of the posts that the run's steps train on, each once."""
        ends = np.cumsum([0, *map(len, self.plans)])
        seen = [
            plan.post_N[: plan.bound_R1[min(len(plan), self.steps - start) * plan.batch_rows]]
            for plan, start in zip(self.plans, ends.tolist(), strict=False)
        ]
        return np.unique(np.concatenate(seen))


def datasets_of(config: ConfigDict) -> tuple[Dataset, ...]:
    """The datasets that `config.data.path` names: `FOLDER`, or `FOLDER:WEIGHT,FOLDER:WEIGHT,…`.

    The first one's test split is evaluated on.

    Raises:
        InputError: there is no such folder, one is named twice, or a weight is not above 0.
    """
    datasets = [_dataset(each.strip()) for each in config.data.path.split(",")]
    folders = [Path(dataset.path).resolve() for dataset in datasets]
    for number, dataset in enumerate(datasets):
        if folders[number] in folders[:number]:
            what = f"the folder {dataset.path!r} is named twice"
            raise InputError(what, "config.data.path", "name it once, and give it a weight: FOLDER:2")
    return tuple(datasets)


def _dataset(named: str) -> Dataset:
    path, separator, weight = named.rpartition(":")
    dataset = Dataset(named)
    if separator and not Path(named).is_dir():
        try:
            dataset = Dataset(path, float(weight))
        except ValueError:
            what = f"the weight {weight!r} is not a number, and there is no such folder"
            raise InputError(what, f"config.data.path={named}", "write it as FOLDER:2") from None
    if not 0 < dataset.weight < math.inf:
        hint = "give one above 0, or leave the folder out"
        raise InputError(f"the weight is {dataset.weight:g}", f"config.data.path={named}", hint)
    if not dataset.path or not Path(dataset.path).is_dir():
        hint = "give the folder that `prepare` wrote, or several as FOLDER:WEIGHT,FOLDER:WEIGHT"
        raise InputError(f"there is no folder {dataset.path!r}", "config.data.path", hint)
    return dataset


def recipe_of(config: ConfigDict, definition: Definition, tokenizer: PreTrainedTokenizerBase) -> Recipe:
    """The recipe of a config: how posts are fed to the model, in training and evaluation.

    Raises:
        InputError: a setting of images or texts cannot be used, or the tokenizer does not suit the model.
    """
    data, tokens = config.data, config.row.tokens
    processor = image_processor(config, definition)
    if data.max_text_tokens > tokens:
        what = f"a text may have {data.max_text_tokens:,} tokens, a row {tokens:,}"
        raise InputError(what, "config.data.max_text_tokens", "give fewer, or longer rows (config.row.tokens)")
    return Recipe(
        template=processor.template(tokenizer),
        processor=processor,
        max_text_tokens=config.data.max_text_tokens,
        zero_shot=config.strategy == "zeroshot",
    )


def image_processor(config: ConfigDict, definition: Definition) -> Processor:
    """The image processor of the model's family, under the config's settings.

    Raises:
        InputError: a setting cannot be used.
    """
    processor = definition.family.processor(definition.config, config.data.images.to_dict())
    for name in config.data.images:
        if name not in processor.settings:
            what = f"images of this model have no setting {name!r}{nearest(name, processor.settings)}"
            known = ", ".join(processor.settings)
            hint = f"use {known}" if known else "the model takes no images: give config.data.images= to drop them"
            raise InputError(what, f"config.data.images.{name}", hint)
    return processor


def make_data(config: ConfigDict) -> None:
    """Makes the model and data of `config.make`, where they are not there yet.

    Raises:
        InputError: it is not a module with a `make()`.
    """
    if not config.make:
        return
    try:
        make = importlib.import_module(config.make).make
    except (ImportError, AttributeError, ValueError, TypeError, SyntaxError) as error:
        what = f"this is not a module with a make() ({error})"
        raise InputError(what, f"config.make={config.make}", "name one") from None
    make()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def complete_config(config: ConfigDict, definition: Definition, folder_images: Mapping[str, int]) -> ConfigDict:
    """The config with every setting and slot of the family's images, the longest tree and the workers written out.

    Args:
        folder_images: settings of images that the model's folder gives (`hf.preprocessor.training_settings`), for those
            that the config does not; the family's own are taken where neither does.

    Raises:
        InputError: one of them cannot be used.
    """
    completed = ConfigDict(config.to_dict())
    completed.data.images = {**folder_images, **config.data.images.to_dict()}
    processor = image_processor(completed, definition)
    completed.data.images = processor.settings
    completed.row.images = row_size(config.row, processor).images
    if config.data.workers < 0:
        completed.data.workers = WORKERS if usable_cores() >= 2 * WORKERS else 0
    completed.row.tree_tokens = config.row.tree_tokens or min(
        config.row.tokens, _tree_tokens(config, definition, processor)
    )
    return completed


def _tree_tokens(config: ConfigDict, definition: Definition, processor: Processor) -> int:
    """Tokens of the longest tree that the limits allow: template, text, image, and both targets."""
    prompt = definition.family.template_tokens + config.data.max_text_tokens + processor.largest().tokens
    return prompt + config.answer_tokens + KEYPHRASE_TOKENS


def branches_of(config: ConfigDict) -> tuple[Branch, ...]:
    """The targets that rows are packed with.

    Raises:
        InputError: the strategy is none that trains.
    """
    objective(config.strategy)  # refuses an unknown one
    names: dict[int, Branch] = {SFT: "sft", COT: "cot"}
    return BOTH if config.pack_for == "both" else tuple(names[branch] for branch in OWN_BRANCHES[config.strategy])


def plan_posts(config: ConfigDict, recipe: Recipe) -> TrainingData:
    """Plans every batch of the run, over all its datasets; no image is decoded.

    `total_steps` sets the length of the run; where it is 0, `num_epochs` does.

    Raises:
        InputError: a dataset is not there or has no post that fits a row, neither `num_epochs` nor `total_steps` is
            given, or `posts_per_step` posts do not fit the rows of a step.
    """
    if not config.num_epochs and not config.total_steps:
        what = "num_epochs is 0 and total_steps is 0"
        raise InputError(what, "config.num_epochs", "give one of them; total_steps wins where both are given")
    size, branches = row_size(config.row, recipe.processor), branches_of(config)
    parts = [_part(each, recipe, size, branches, config.data.workers) for each in datasets_of(config)]
    records = JoinedRecords([part.records for part in parts])
    sizes = np.concatenate([part.size_N5 for part in parts])
    plans: list[EpochPlan] = []
    while _is_short(plans, config):
        seeded = {"seed": config.seed, "epoch": len(plans)}
        posts = [
            start + posts_of_epoch(part.posts, part.dataset.weight, **seeded)
            for start, part in zip(records.starts, parts, strict=True)
        ]
        of_step = {"batch_rows": config.global_batch_size, "posts_per_step": config.posts_per_step}
        plans.append(plan_epoch(sizes, size, posts=np.concatenate(posts), **of_step, **seeded))
    _check_rows(plans, config)
    steps = config.total_steps or sum(map(len, plans))
    feed, left_out = Feed(records, recipe, size, branches), _left_out(parts, records.starts)
    has_cot_N = np.concatenate([part.has_cot_N for part in parts])
    _check_chains(config, parts)
    known = _known(parts, recipe, config.data.workers)
    return TrainingData(feed, plans, steps, left_out, has_cot_N, config.strategy, known)


def _is_short(plans: Sequence[EpochPlan], config: ConfigDict) -> bool:
    """Whether the run needs another epoch."""
    if config.total_steps:
        return sum(map(len, plans)) < config.total_steps
    return len(plans) < config.num_epochs


def _check_rows(plans: Sequence[EpochPlan], config: ConfigDict) -> None:
    needed, rows = max(plan.batch_rows for plan in plans), config.global_batch_size
    if needed > rows:
        what = f"{config.posts_per_step:,} posts of a step take up to {needed:,} rows, and a step has {rows:,}"
        hint = f"give config.global_batch_size={needed} (or the next multiple that the devices divide), or larger rows"
        raise InputError(what, "config.posts_per_step", hint)


def _check_chains(config: ConfigDict, parts: Sequence["_Part"]) -> None:
    """Refuses Fine-tune-CoT where no post has a chain of thought: its loss would be 0."""
    if config.strategy == "cot" and not any(part.has_cot_N[part.posts].any() for part in parts):
        what = chains_line("cot", sum(len(part.posts) for part in parts), 0).removeprefix("WARNING: ")
        raise InputError(what, "config.data.path", "write chains with `teach` and give them to `prepare --cot`")


class _Part(NamedTuple):
    """A dataset's share of the run: its records, and the numbers of those that can be trained on."""

    dataset: Dataset
    records: Split
    size_N5: np.ndarray
    text_N: np.ndarray
    has_cot_N: np.ndarray
    posts: np.ndarray
    left_out: list[LeftOut]


def _left_out(parts: Sequence[_Part], starts: Sequence[int]) -> list[LeftOut]:
    """Posts left out of all datasets, numbered as in the joined records; of several datasets, with the folder."""
    if len(parts) == 1:
        return parts[0].left_out
    return [
        LeftOut(start + each.number, f"{part.dataset.path}: {each.id}", each.reason)
        for start, part in zip(starts, parts, strict=True)
        for each in part.left_out
    ]


def _known(parts: Sequence[_Part], recipe: Recipe, workers: int) -> int:
    """Number of test posts of the first dataset with the same text as a post that is trained on."""
    path = parts[0].dataset.path
    if "test" not in split_names(path):
        return 0
    test_N = index(open_split(path, "test"), recipe, Path(path) / "index", workers=workers).text_N
    trained_N = np.concatenate([part.text_N[part.posts] for part in parts])
    return int((np.isin(test_N, trained_N) & (test_N > 0)).sum())


def _part(dataset: Dataset, recipe: Recipe, size: RowSize, branches: tuple[Branch, ...], workers: int) -> _Part:
    records = open_split(dataset.path, "train")
    lengths = index(records, recipe, Path(dataset.path) / "index", workers=workers)
    posts, left_out = select_posts(lengths, size, branches)
    if not len(posts):
        raise InputError(
            f"none of {len(records)} posts can be trained on; the first: {left_out[0].reason}",
            dataset.path,
            "give larger rows or trees (config.row), or posts with the targets that the strategy needs",
        )
    if dataset.weight * len(posts) < 1:
        what = f"at weight {dataset.weight:g}, {len(posts)} posts are less than one an epoch"
        raise InputError(what, dataset.path, "give a larger weight, or leave the folder out")
    return _Part(dataset, records, sizes_of(lengths, branches), lengths.text_N, lengths.cot_N > 0, posts, left_out)


def training_summary(training: TrainingData) -> str:
    """A few lines: posts, steps and epochs, what is left out, updates, and chains of thought."""
    posts, epochs = sum(len(plan.post_N) for plan in training.plans[:1]), len(training.plans)
    reasons: dict[str, int] = {}
    for each in training.left_out:
        kind = each.reason.split(":")[0]
        reasons[kind] = reasons.get(kind, 0) + 1
    out = "".join(f"; left out: {n:,}, as {reason}" for reason, n in reasons.items())
    steps = f"{len(training.plans[0]):,} steps, {training.steps:,} steps in all ({epochs} epochs begun)"
    known = f"; test posts that have the text of a training post: {training.known_tests:,}" * bool(training.known_tests)
    trained = training.posts
    lines = [
        f"{posts:,} posts an epoch in {steps}{out}{known}",
        updates_line(training.steps, posts / len(training.plans[0])),
        chains_line(training.strategy, len(trained), int(training.has_cot_N[trained].sum())),
    ]
    return "\n".join(filter(None, lines))
