"""Statistics of a prepared dataset: its splits, duplicates, how posts fit rows, and what the model gets as input.

Nothing here imports JAX, so that a dataset can be described without it.
"""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmkp_jax.data.examples import Branch, Recipe
from mmkp_jax.data.forest import RowSize
from mmkp_jax.data.pipeline import Feed
from mmkp_jax.data.posts import Record
from mmkp_jax.data.records import Split, open_split, split_names
from mmkp_jax.data.row_fit import RowFit, fit_rows, one_of_each_kind
from mmkp_jax.data.row_preview import RowPreview, preview_row
from mmkp_jax.data.size_index import Lengths, index
from mmkp_jax.data.statistics import (
    COMPARED,
    RejectReason,
    SplitStatistics,
    find_shared,
    gather_statistics,
    reject_reasons,
    repeats,
)
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.stemming import stem_words
from mmkp_jax.evaluation.tokenised import hidden_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "valid", "test")


class BatchSetup(NamedTuple):
    """How a config turns posts into batches for its model."""

    recipe: Recipe
    tokenizer: "PreTrainedTokenizerBase"
    size: RowSize
    branches: tuple[Branch, ...]
    batch_rows: int
    seed: int
    """Seed of the order of posts."""
    strategy: str
    posts_per_step: int
    """Posts of a step; 0 for as many as its rows hold."""
    num_epochs: int
    total_steps: int
    """Steps of the run; 0 for those of all epochs."""


class Duplicates(NamedTuple):
    """Posts with the same text, image or both."""

    what: str
    """What they share: one of `statistics.COMPARED`."""
    splits: tuple[str, ...]
    """The split with repeats, or the two splits that share posts."""
    posts: tuple[int, ...]
    """Number of such posts in each of these splits."""
    ids: list[tuple[str, str]]
    """Ids of the first few pairs."""


class TokenStatistics(NamedTuple):
    """The statistics that depend on a tokenizer and on the size of rows."""

    setup: BatchSetup
    lengths: dict[str, Lengths]
    """Lengths by split."""
    fit: RowFit
    """Rows of the first split, which is train if there is one."""


class Description(NamedTuple):
    """All statistics of a dataset."""

    path: Path
    splits: dict[str, SplitStatistics]
    """Statistics of the splits of `SPLITS` that the dataset has, in that order."""
    duplicates: list[Duplicates]
    rejected: dict[tuple[str, str], RejectReason]
    token_statistics: TokenStatistics | None

    @property
    def first(self) -> str:
        """The split that is trained on; another one if there is no train."""
        return next(iter(self.splits))


class PostPreview(NamedTuple):
    """A post as stored, and as the model's input."""

    record: Record
    trimmed: bool
    row: RowPreview


def describe_dataset(
    path: Path, setup: BatchSetup | None = None, *, progress: Callable[[range, str], Iterable[int]]
) -> Description:
    """Computes the statistics of the dataset in the folder `path`.

    Args:
        setup: adds the statistics that depend on a tokenizer and on the size of rows; the index of lengths is stored in
            `path`.
        progress: wraps the numbers of a split's posts, given with its name, to show progress.

    Raises:
        InputError: the folder is not a dataset with any of `SPLITS`, or its rejects cannot be read.
    """
    records = _open(path)
    recipe = setup.recipe if setup else None
    splits: dict[str, SplitStatistics] = {}
    for name, split in records.items():
        train = splits["train"].unique if "train" in splits else None
        splits[name] = gather_statistics(
            split,
            stem_words,
            hidden_in=hidden_in,
            train=train,
            recipe=recipe,
            progress=lambda numbers, name=name: progress(numbers, name),
        )
    found = Description(path, splits, _duplicates(records, splits), reject_reasons(path), None)
    if setup is None:
        return found
    lengths = {name: index(split, setup.recipe, path / "index") for name, split in records.items()}
    steps = {"batch_rows": setup.batch_rows, "seed": setup.seed, "posts_per_step": setup.posts_per_step}
    rows = fit_rows(lengths[found.first], setup.size, setup.branches, **steps)
    return found._replace(token_statistics=TokenStatistics(setup, lengths, rows))


def preview_posts(description: Description) -> list[PostPreview]:
    """A few posts of the first split, of different kinds, loaded as for training, each in its own row."""
    if description.token_statistics is None:
        return []
    setup, lengths, rows = description.token_statistics
    records = open_split(description.path, description.first)
    trimmed_N = is_trimmed(description, description.first)
    numbers = one_of_each_kind(lengths[description.first], trimmed_N, rows.posts)
    feed = Feed(records, setup.recipe, setup.size, setup.branches)
    forest = feed.load([(number,) for number in numbers])
    return [
        PostPreview(
            records[number], bool(trimmed_N[number]), preview_row(forest, row, setup.recipe.processor, setup.tokenizer)
        )
        for row, number in enumerate(numbers)
    ]


def is_trimmed(description: Description, split: str) -> np.ndarray:
    """A bool [N]: whether a post's text is longer than the recipe's `max_text_tokens`."""
    return description.splits[split].text_tokens_N > description.token_statistics.setup.recipe.max_text_tokens


def _open(path: Path) -> dict[str, Split]:
    """The dataset's splits.

    Raises:
        InputError: there are none, or one is damaged.
    """
    there = split_names(path)
    records = {name: open_split(path, name) for name in SPLITS if name in there}
    if not records:
        raise InputError(f"it has none of the splits {', '.join(SPLITS)}", str(path), "name its splits like this")
    return records


def _duplicates(records: dict[str, Split], splits: dict[str, SplitStatistics]) -> list[Duplicates]:
    found = []
    pairs = itertools.combinations_with_replacement(splits, 2)
    for (first, second), what in itertools.product(pairs, COMPARED):
        digests = [splits[name].digest_N[what] for name in (first, second)]
        shared = repeats(digests[0]) if first == second else find_shared(*digests)
        if not shared.second:
            continue
        names, posts = ((first,), (shared.second,)) if first == second else ((first, second), shared[:2])
        ids = [(records[first][one].id, records[second][other].id) for one, other in shared.pairs]
        found.append(Duplicates(what, names, posts, ids))
    return found
