"""What a prepared dataset is: its splits in numbers, what they have in common, how they fit rows, what a model is fed.

Nothing here imports JAX: a dataset can be described where there is none.
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
from mmkp_jax.data.row_fit import Fit, fit, one_of_each_kind
from mmkp_jax.data.row_preview import RowView, view_row
from mmkp_jax.data.size_index import Lengths, index
from mmkp_jax.data.statistics import COMPARED, Rejected, SplitStatistics, common, gather, rejected, repeats
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.stemming import stem_words
from mmkp_jax.evaluation.tokenised import hidden_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "valid", "test")


class BatchSetup(NamedTuple):
    """How a config feeds posts to its model."""

    recipe: Recipe
    tokenizer: "PreTrainedTokenizerBase"
    size: RowSize
    branches: tuple[Branch, ...]
    batch_rows: int
    seed: int
    """Of the order of posts."""
    strategy: str
    posts_per_step: int
    """0: as many as the rows of a step hold."""
    num_epochs: int
    total_steps: int
    """0: as many as the epochs come to."""


class Duplicates(NamedTuple):
    """Posts that have something in common."""

    what: str
    """One of `statistics.COMPARED`."""
    splits: tuple[str, ...]
    """The split that repeats itself, or the two that share."""
    posts: tuple[int, ...]
    """Of each of these splits."""
    ids: list[tuple[str, str]]
    """Of the first few pairs."""


class TokenStatistics(NamedTuple):
    """The token side of a description."""

    feeding: BatchSetup
    lengths: dict[str, Lengths]
    """By split."""
    fit: Fit
    """Of the first split, which is train where there is one."""


class Description(NamedTuple):
    """All the figures that are told of a dataset."""

    path: Path
    splits: dict[str, SplitStatistics]
    """Those of `SPLITS` that the dataset has, in their order."""
    duplicates: list[Duplicates]
    rejected: dict[tuple[str, str], Rejected]
    token_statistics: TokenStatistics | None

    @property
    def first(self) -> str:
        """The split that is trained on; another where there is no train."""
        return next(iter(self.splits))


class PostPreview(NamedTuple):
    """A post as its files hold it, and as the model is fed it."""

    record: Record
    trimmed: bool
    row: RowView


def describe_dataset(
    path: Path, feeding: BatchSetup | None = None, *, progress: Callable[[range, str], Iterable[int]]
) -> Description:
    """Describes the dataset in the folder `path`.

    Args:
        feeding: adds what depends on a tokenizer and on the size of rows; the index of lengths is kept in `path`.
        progress: is given the numbers of the posts of a split to go through and its name.

    Raises:
        InputError: the folder holds no dataset with any of `SPLITS`, or its rejects cannot be read.
    """
    records = _open(path)
    recipe = feeding.recipe if feeding else None
    splits: dict[str, SplitStatistics] = {}
    for name, split in records.items():
        train = splits["train"].unique if "train" in splits else None
        splits[name] = gather(
            split,
            stem_words,
            hidden_in=hidden_in,
            train=train,
            recipe=recipe,
            progress=lambda numbers, name=name: progress(numbers, name),
        )
    found = Description(path, splits, _duplicates(records, splits), rejected(path), None)
    if feeding is None:
        return found
    lengths = {name: index(split, feeding.recipe, path / "index") for name, split in records.items()}
    steps = {"batch_rows": feeding.batch_rows, "seed": feeding.seed, "posts_per_step": feeding.posts_per_step}
    rows = fit(lengths[found.first], feeding.size, feeding.branches, **steps)
    return found._replace(token_statistics=TokenStatistics(feeding, lengths, rows))


def preview_posts(description: Description) -> list[PostPreview]:
    """A few posts of the first split, of different kinds, loaded as training loads them, each in a row of its own."""
    if description.token_statistics is None:
        return []
    feeding, lengths, rows = description.token_statistics
    records = open_split(description.path, description.first)
    trimmed_N = trimmed(description, description.first)
    numbers = one_of_each_kind(lengths[description.first], trimmed_N, rows.posts)
    feed = Feed(records, feeding.recipe, feeding.size, feeding.branches)
    forest = feed.load([(number,) for number in numbers])
    return [
        PostPreview(
            records[number], bool(trimmed_N[number]), view_row(forest, row, feeding.recipe.processor, feeding.tokenizer)
        )
        for row, number in enumerate(numbers)
    ]


def trimmed(description: Description, split: str) -> np.ndarray:
    """bool [N]: whose text is longer than the recipe's `max_text_tokens`."""
    return description.splits[split].text_tokens_N > description.token_statistics.feeding.recipe.max_text_tokens


def _open(path: Path) -> dict[str, Split]:
    """The splits that are there.

    Raises:
        InputError: none is, or one is damaged.
    """
    there = split_names(path)
    records = {name: open_split(path, name) for name in SPLITS if name in there}
    if not records:
        raise InputError(f"it has none of the splits {', '.join(SPLITS)}", str(path), "name its splits so")
    return records


def _duplicates(records: dict[str, Split], splits: dict[str, SplitStatistics]) -> list[Duplicates]:
    found = []
    pairs = itertools.combinations_with_replacement(splits, 2)
    for (first, second), what in itertools.product(pairs, COMPARED):
        digests = [splits[name].digest_N[what] for name in (first, second)]
        shared = repeats(digests[0]) if first == second else common(*digests)
        if not shared.second:
            continue
        names, posts = ((first,), (shared.second,)) if first == second else ((first, second), shared[:2])
        ids = [(records[first][one].id, records[second][other].id) for one, other in shared.pairs]
        found.append(Duplicates(what, names, posts, ids))
    return found
