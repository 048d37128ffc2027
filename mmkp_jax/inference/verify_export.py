"""Verifies an export: transformers against our model, on posts of the run's test split."""

import contextlib
import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmkp_jax.data.examples import Recipe, tree_of
from mmkp_jax.data.forest import Tree
from mmkp_jax.data.image_files import ImageError
from mmkp_jax.data.posts import Record
from mmkp_jax.data.records import Split, open_split
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.verify import our_logits, reference_outputs
from mmkp_jax.inference.evaluate import TEST
from mmkp_jax.inference.export_run import RunStep
from mmkp_jax.inference.load_model import LoadedModel, load_folder
from mmkp_jax.inference.predictor import Predictor
from mmkp_jax.training.batches import datasets_of

VERIFIED = 16
"""Posts of the test split that an export is verified on."""


class Verification(NamedTuple):
    """Differences between an export, the run and transformers, over some posts."""

    posts: int
    logits: float
    """Largest difference between transformers' logits and ours on the export, as a share of the largest logit."""
    other_answers: list[str]
    """Ids of posts for which the two complete differently."""
    rounding: float
    """Largest difference between logits of the export and of the run's parameters."""
    largest: float
    """The largest logit."""


def verify(
    step: RunStep, loaded: LoadedModel, out: Path, posts: int = VERIFIED, *, adapter: bool = False
) -> Verification:
    """Compares transformers with our model, both on the export in float32, over the first posts of the test split.

    Args:
        adapter: whether the export is an adapter, which is added to the base: in transformers by PEFT.

    Raises:
        InputError: the run's dataset or the export cannot be opened.
    """
    records, trees = _posts(open_split(datasets_of(step.config)[0].path, TEST), loaded.recipe, posts)
    # the run's own config: another one in the export is what is to be found
    folder = step.base if adapter else dataclasses.replace(open_folder(str(out)), config=step.base.config)
    mesh = jax.tree.leaves(loaded.params)[0].sharding.mesh
    definition, params = load_folder(folder, str(out) if adapter else "", mesh, jnp.float32)
    predictor = Predictor(
        definition,
        params,
        loaded.recipe,
        loaded.tokenizer,
        stop_tokens=loaded.stop_tokens,
        batch_size=loaded.batch_size,
        answer_tokens=loaded.answer_tokens,
        dtype=jnp.float32,
    )
    with jax.default_matmul_precision("highest"):
        answers = dict(predictor.predict(records))
    live = our_logits(loaded.definition, loaded.params, trees)
    ours = our_logits(definition, params, trees)
    theirs = reference_outputs(
        definition.family,
        folder.path,
        trees,
        [record.image for record in records],
        loaded.answer_tokens,
        adapter=out if adapter else None,
    )
    logits = rounding = largest = 0.0
    others = []
    for number, (live_MV, our_MV, their) in enumerate(zip(live, ours, theirs, strict=True)):
        # numpy's, since Python's max ignores NaN
        logits = np.maximum(logits, np.abs(our_MV - their.logits_MV).max())
        rounding = np.maximum(rounding, np.abs(our_MV - live_MV).max())
        largest = np.maximum(largest, np.abs(their.logits_MV).max())
        if (answers[number].output, answers[number].tokens) != (their.completion, their.tokens):
            others.append(records[number].id)
    return Verification(len(records), float(logits / largest), others, float(rounding), float(largest))


def _posts(split: Split, recipe: Recipe, posts: int) -> tuple[list[Record], list[Tree]]:
    """The first usable posts, with their keyphrases as target."""
    records, trees = [], []
    for number in range(len(split)):
        if len(records) == posts:
            break
        with contextlib.suppress(ImageError):  # evaluation counts and lists these posts
            trees.append(tree_of(split[number], recipe, ("sft",)))
            records.append(split[number])
    return records, trees
