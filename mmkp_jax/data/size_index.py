"""The index: each post's sizes, known before any image is decoded, computed once and cached."""

import functools
import hashlib
import itertools
import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from mmkp_jax.data.examples import Branch, Recipe, Size, size_of
from mmkp_jax.data.forest import RowSize
from mmkp_jax.data.numbered import Numbered
from mmkp_jax.data.posts import Record
from mmkp_jax.runtime.atomic import replacing

FEW = 5_000
"""Posts that one process measures in the time that it takes to start another."""


class Records(Numbered[Record], Protocol):
    """Records by number, with a fingerprint of their content: `records.Split`."""

    fingerprint: str


class Lengths(NamedTuple):
    """The sizes of N posts (`examples.Size`), int32, and what else is needed of a post without reading it.

    X counts the family's kinds of slots.
    """

    trunk_N: np.ndarray
    sft_N: np.ndarray
    cot_N: np.ndarray
    image_N: np.ndarray
    slot_NX: np.ndarray
    text_N: np.ndarray
    """uint64: equal where the stripped texts are equal; 0 for a post without text."""
    id_N: np.ndarray
    """The posts' ids, as text."""


_KINDS = "iiiiiuU"
"""Dtype kinds of the arrays of `Lengths`, in numpy's letters."""


class LeftOut(NamedTuple):
    """A post that cannot be trained on, and why."""

    number: int
    id: str
    reason: str


def measure_posts(records: Records, recipe: Recipe, *, workers: int = 0) -> Lengths:
    """Computes the sizes of all records, divided among `workers` processes, or in this one.

    Threads would not help: the tokenizer holds Python's lock.
    """
    if workers and len(records) > FEW:
        bounds = [len(records) * worker // workers for worker in range(workers + 1)]
        shares = [range(*each) for each in itertools.pairwise(bounds)]
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(functools.partial(_measure, records, recipe), shares))
    else:
        parts = [_measure(records, recipe, range(len(records)))]
    return Lengths(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _measure(records: Records, recipe: Recipe, numbers: range) -> Lengths:
    ids, text_N = [], np.empty(len(numbers), np.uint64)
    size_N4 = np.empty((len(numbers), len(Size._fields) - 1), np.int32)
    slot_NX = np.empty((len(numbers), len(recipe.processor.slots)), np.int32)
    for row, number in enumerate(numbers):
        record = records[number]
        ids.append(record.id)
        text_N[row] = digest(record.text.strip().encode())
        *size_N4[row], slot_NX[row] = size_of(record, recipe)
    return Lengths(*size_N4.T, slot_NX, text_N, np.asarray(ids, np.str_))


def digest(data: bytes) -> int:
    """A 64-bit hash of the data; 0 for no data."""
    return (int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1) if data else 0


def index(records: Records, recipe: Recipe, cache: str | Path, *, workers: int = 0) -> Lengths:
    """The sizes of the posts, from the folder `cache` if they are there, else measured and stored there.

    The key covers content, tokenizer, prompt and image processor, so sizes of other data are never used. Where the
    folder cannot be written, a warning says so, and nothing is stored.
    """
    file = Path(cache) / f"lengths-{_key(records, recipe)}.npz"
    try:
        with np.load(file, allow_pickle=False) as kept:
            lengths = Lengths(*(kept[name] for name in Lengths._fields))
        expected = {name: ((len(records),), kind) for name, kind in zip(Lengths._fields, _KINDS, strict=True)}
        expected["slot_NX"] = (len(records), len(recipe.processor.slots)), "i"
        if {name: (array.shape, array.dtype.kind) for name, array in lengths._asdict().items()} == expected:
            return lengths
    except Exception:  # absent, or damaged, for which zip, zlib and numpy raise any error: measured again
        pass
    lengths = measure_posts(records, recipe, workers=workers)
    try:
        with replacing(file, unique=True) as out:  # every host writes it
            np.savez(out, **lengths._asdict())
    except OSError as error:
        message = "%s: the index of lengths cannot be stored there (%s), and is measured again each time"
        logging.getLogger(__name__).warning(message, cache, error.strerror or error)
    return lengths


def _key(records: Records, recipe: Recipe) -> str:
    named = [records.fingerprint, recipe.template.fingerprint, recipe.processor.fingerprint]
    named = f"{' '.join(named)} {recipe.max_text_tokens} {recipe.zero_shot}"
    return hashlib.sha256(named.encode()).hexdigest()[:24]


def sizes_of(lengths: Lengths, branches: Sequence[Branch]) -> np.ndarray:
    """Slots that each post takes in a row with the targets in `branches`: int64 [N, X], columns as `RowSize.slots`."""
    label_N = sum((getattr(lengths, f"{branch}_N") for branch in branches), np.zeros(len(lengths.trunk_N), np.int64))
    columns = [lengths.trunk_N + label_N, *lengths.slot_NX.T, label_N, np.ones_like(label_N)]
    return np.stack(columns, axis=-1).astype(np.int64)


def select_posts(lengths: Lengths, size: RowSize, branches: Sequence[Branch]) -> tuple[np.ndarray, list[LeftOut]]:
    """Splits the posts into those that can be trained on (their numbers, int64 [N]) and those left out.

    A post is left out if it has no target in `branches`, or does not fit a row, or is longer than a tree may be.
    """
    size_NX, limits = sizes_of(lengths, branches), size.tree_limits()
    names = dict.fromkeys(limits, "") | {"tokens": " (row.tree_tokens)" * (size.longest_tree < size.tokens)}
    without_N = size_NX[:, list(limits).index("labels")] == 0
    out_N = without_N | (size_NX > list(limits.values())).any(axis=1)
    left_out = []
    for number in np.flatnonzero(out_N).tolist():
        over = [
            f"{n:,} {name} of {most:,}{names[name]}"
            for n, (name, most) in zip(size_NX[number], limits.items(), strict=True)
            if n > most
        ]
        reason = "it has no chain of thought" if without_N[number] else f"it is longer than a row: {', '.join(over)}"
        left_out.append(LeftOut(number, str(lengths.id_N[number]), reason))
    return np.flatnonzero(~out_N), left_out
