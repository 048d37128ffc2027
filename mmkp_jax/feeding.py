"""The data side of a run: from a config and a model folder to planned batches and to prompts for evaluation."""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict
from transformers import PreTrainedTokenizerBase

from mmkp_jax.data.examples import BOTH, Branch, Recipe
from mmkp_jax.data.forest import COT, SFT, RowSize
from mmkp_jax.data.lengths import LeftOut, choose, index, sizes_of
from mmkp_jax.data.pipeline import Feed
from mmkp_jax.data.plan import EpochPlan, plan_epoch
from mmkp_jax.data.prompts import read_template
from mmkp_jax.data.records import open_split
from mmkp_jax.errors import InputError
from mmkp_jax.models.definition import Definition
from mmkp_jax.objectives import OWN_BRANCHES, objective

PACK_FOR = ("own", "both")


class Training(NamedTuple):
    """What a run trains on."""

    feed: Feed
    plans: list[EpochPlan]
    """As many epochs as the run needs; the last may be left early."""
    steps: int
    """Optimizer steps of the run."""
    left_out: list[LeftOut]


def recipe_of(config: ConfigDict, definition: Definition, tokenizer: PreTrainedTokenizerBase) -> Recipe:
    """How posts are fed to the model, in training and evaluation."""
    return Recipe(
        template=read_template(tokenizer, image_token=definition.geometry.image_token),
        geometry=definition.geometry,
        min_pixels=config.data.min_pixels,
        max_pixels=config.data.max_pixels,
        max_text_tokens=config.data.max_text_tokens,
        zero_shot=config.strategy == "zeroshot",
    )


def branches_of(config: ConfigDict) -> tuple[Branch, ...]:
    """The targets that rows are packed with.

    Raises:
        InputError: `pack_for` is none of `PACK_FOR`.
    """
    objective(config.strategy)  # tells an unknown one
    if config.pack_for not in PACK_FOR:
        raise InputError(f"unknown value {config.pack_for!r}", "config.pack_for", "choose own or both")
    names: dict[int, Branch] = {SFT: "sft", COT: "cot"}
    return BOTH if config.pack_for == "both" else tuple(names[branch] for branch in OWN_BRANCHES[config.strategy])


def plan_posts(config: ConfigDict, recipe: Recipe) -> Training:
    """Plans every batch of the run; pictures are not decoded.

    Raises:
        InputError: there is no dataset, no post that fits a row, or not exactly one of `num_epochs`, `total_steps`.
    """
    if bool(config.num_epochs) == bool(config.total_steps):
        raise InputError(
            f"num_epochs is {config.num_epochs} and total_steps is {config.total_steps}",
            "config.num_epochs",
            "give one of them, and 0 for the other",
        )
    records = open_split(config.data.path, "train")
    size, branches = RowSize(**config.row), branches_of(config)
    lengths = index(records, recipe, Path(config.data.path) / "index")
    posts, left_out = choose(lengths, size, branches)
    if not len(posts):
        raise InputError(
            f"none of {len(records)} posts can be trained on; the first: {left_out[0].reason}",
            config.data.path,
            "give larger rows (config.row), or posts with the targets that the strategy needs",
        )
    sizes = sizes_of(lengths, branches)
    plans: list[EpochPlan] = []
    while len(plans) < config.num_epochs or sum(map(len, plans)) < config.total_steps:
        plan = plan_epoch(
            sizes, size, seed=config.seed, epoch=len(plans), batch_rows=config.global_batch_size, posts=posts
        )
        plans.append(plan)
    steps = config.total_steps or sum(map(len, plans))
    return Training(Feed(records, recipe, size, branches), plans, steps, left_out)


def describe(training: Training) -> str:
    """One line: how much is trained on, in how many steps, and what is left out."""
    posts, epochs = sum(len(plan.post_N) for plan in training.plans[:1]), len(training.plans)
    reasons: dict[str, int] = {}
    for each in training.left_out:
        kind = each.reason.split(":")[0]
        reasons[kind] = reasons.get(kind, 0) + 1
    out = "".join(f"; left out: {n:,}, as {reason}" for reason, n in reasons.items())
    steps = f"{len(training.plans[0]):,} steps, {training.steps:,} steps in all ({epochs} epochs begun)"
    return f"{posts:,} posts an epoch in {steps}{out}"
