"""The index: each post's sizes, known before any picture is decoded, computed once and kept."""

import dataclasses
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
from mmkp_jax.data.posts import Record
from mmkp_jax.runtime.atomic import replacing

LIMITS = tuple(field.name for field in dataclasses.fields(RowSize))
"""The columns of a table of sizes."""

FEW = 5_000
"""So many posts are measured before another process has begun."""


class Records(Protocol):
    """Records by number, and a name for their content: `records.Split`."""

    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Record: ...


class Lengths(NamedTuple):
    """The sizes of N posts (`examples.Size`), int32 [N] each, and what else is asked of a post without reading it."""

    trunk_N: np.ndarray
    sft_N: np.ndarray
    cot_N: np.ndarray
    patches_N: np.ndarray
    windows_N: np.ndarray
    text_N: np.ndarray
    """uint64: equal where the posts' texts are, but for blanks around them; 0 for a post without text."""
    id_N: np.ndarray
    """The posts' ids, as text."""


_KINDS = "iiiiiuU"
"""Of the arrays of `Lengths`, in numpy's letters."""


class LeftOut(NamedTuple):
    """A post that cannot be trained on, and why."""

    number: int
    id: str
    reason: str


def measure(records: Records, recipe: Recipe, *, workers: int = 0) -> Lengths:
    """Goes through all records and computes their sizes, shared out among `workers` processes, or in this one.

    Threads would not help: the tokenizer keeps Python's lock.
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
    size_N5 = np.empty((len(numbers), len(Size._fields)), np.int32)
    for row, number in enumerate(numbers):
        record = records[number]
        ids.append(record.id)
        text_N[row] = digest(record.text.strip().encode())
        size_N5[row] = size_of(record, recipe)
    return Lengths(*size_N5.T, text_N, np.asarray(ids, np.str_))


def digest(data: bytes) -> int:
    """64 bits that tell data apart; 0 for no data."""
    return (int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") or 1) if data else 0


def index(records: Records, recipe: Recipe, cache: str | Path, *, workers: int = 0) -> Lengths:
    """The sizes of the posts, out of the folder `cache` if they are there, else measured and put there.

    What is kept goes by content, tokenizer, prompt and pixel limits; the sizes of other data are never taken. Where the
    folder cannot be written, a warning says so, and nothing is kept.
    """
    file = Path(cache) / f"lengths-{_key(records, recipe)}.npz"
    try:
        with np.load(file, allow_pickle=False) as kept:
            lengths = Lengths(*(kept[name] for name in Lengths._fields))
        if [(array.shape, array.dtype.kind) for array in lengths] == [((len(records),), kind) for kind in _KINDS]:
            return lengths
    except Exception:  # not there yet, or damaged, of which zip, zlib and numpy raise what they please: measured anew
        pass
    lengths = measure(records, recipe, workers=workers)
    try:
        with replacing(file, unique=True) as out:  # every host writes it
            np.savez(out, **lengths._asdict())
    except OSError as error:
        told = "%s: the index of lengths cannot be kept there (%s), and is measured anew each time"
        logging.getLogger(__name__).warning(told, cache, error.strerror or error)
    return lengths


def _key(records: Records, recipe: Recipe) -> str:
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name != "template"}
    named = f"{records.fingerprint} {recipe.template.fingerprint} {sorted(fields.items())}"
    return hashlib.sha256(named.encode()).hexdigest()[:24]


def sizes_of(lengths: Lengths, branches: Sequence[Branch]) -> np.ndarray:
    """What each post takes of a row with the targets in `branches`: int64 [N, 5], columns as in `LIMITS`."""
    label_N = sum((getattr(lengths, f"{branch}_N") for branch in branches), np.zeros(len(lengths.trunk_N), np.int64))
    columns = {
        "tokens": lengths.trunk_N + label_N,
        "patches": lengths.patches_N,
        "windows": lengths.windows_N,
        "labels": label_N,
        "examples": np.ones_like(label_N),
    }
    return np.stack([columns[name] for name in LIMITS], axis=-1).astype(np.int64)


def choose(lengths: Lengths, size: RowSize, branches: Sequence[Branch]) -> tuple[np.ndarray, list[LeftOut]]:
    """Parts the posts into those that can be trained on, int64 [N] of their numbers, and those left out.

    Left out is a post that has no target in `branches`, or takes more than a whole row.
    """
    size_N5 = sizes_of(lengths, branches)
    limit_5 = np.asarray(dataclasses.astuple(size))
    without_N = size_N5[:, LIMITS.index("labels")] == 0
    out_N = without_N | (size_N5 > limit_5).any(axis=1)
    left_out = []
    for number in np.flatnonzero(out_N).tolist():
        over = [
            f"{n:,} {name} of {most:,}"
            for name, n, most in zip(LIMITS, size_N5[number], limit_5, strict=True)
            if n > most
        ]
        reason = "it has no chain of thought" if without_N[number] else f"it is longer than a row: {', '.join(over)}"
        left_out.append(LeftOut(number, str(lengths.id_N[number]), reason))
    return np.flatnonzero(~out_N), left_out
