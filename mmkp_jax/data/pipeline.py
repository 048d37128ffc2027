"""The pipeline: planned batches, loaded by Grain in threads or worker processes, as packed arrays.

The position in the data is (epoch, batch), for any number of workers and hosts: the batches are planned, so resuming
at a position is a slice, and the workers divide whole batches among themselves.
"""

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import flags

from mmkp_jax.data.examples import BOTH, Branch, Recipe, tree_of
from mmkp_jax.data.feature_store import FeatureStore
from mmkp_jax.data.forest import Forest, RowSize, map_arrays, pack_rows
from mmkp_jax.data.plan import EpochPlan, Rows, host_rows
from mmkp_jax.data.size_index import Records
from mmkp_jax.errors import LostError

if TYPE_CHECKING:
    import grain

BUFFERED = 2
"""Batches that each thread or worker prefetches."""


class Position(NamedTuple):
    """The position of a batch in a run; epoch and batch count from 0."""

    epoch: int
    batch: int


BEGINNING = Position(0, 0)


@dataclasses.dataclass(frozen=True)
class Feed:
    """Everything needed to load the posts of a plan."""

    records: Records
    recipe: Recipe
    size: RowSize
    branches: tuple[Branch, ...] = BOTH
    features: FeatureStore | None = None
    """Features that are read in place of images."""

    def load(self, rows: Rows) -> Forest:
        """Reads, decodes and packs the posts of `rows`."""
        given = self.recipe, self.branches, self.features
        trees = [[tree_of(self.records[post], *given) for post in row] for row in rows]
        return pack_rows(trees, self.size, self.recipe.processor, self.features and self.features.kind)


def step_of(plans: Sequence[EpochPlan], position: Position) -> int:
    """The number of batches before `position`.

    Raises:
        ValueError: the plans have no such position; the end of an epoch is the beginning of the next.
    """
    epoch, batch = position
    inside = 0 <= epoch < len(plans) and 0 <= batch <= len(plans[epoch])
    if not inside and position != (len(plans), 0):
        raise ValueError(f"the plans have no batch {batch} of epoch {epoch}")
    return sum(map(len, plans[:epoch])) + batch


def position_of(plans: Sequence[EpochPlan], step: int) -> Position:
    """The position after `step` batches; after the last one, the beginning of the epoch after the plans.

    Raises:
        ValueError: the plans have fewer batches.
    """
    batch = step
    for epoch, plan in enumerate(plans):
        if 0 <= batch < len(plan):
            return Position(epoch, batch)
        batch -= len(plan)
    if batch:
        raise ValueError(f"the plans have {step - batch} batches, not {step}")
    return Position(len(plans), 0)


def batches(
    feed: Feed,
    plans: Sequence[EpochPlan],
    *,
    start: Position = BEGINNING,
    host: int = 0,
    hosts: int = 1,
    workers: int = 0,
) -> Iterator[tuple[Position, Forest]]:
    """Loads the batches of all epochs in `plans` from `start` on; close the iterator to stop its workers.

    Args:
        host: the host whose rows of each batch are loaded, from 0.
        hosts: number of hosts that the rows are divided among.
        workers: processes that load; 0 loads in threads of this process.

    Raises:
        ValueError: `start` is not in the plans, or the rows do not divide equally among the hosts.
        LostError: a worker was killed.

    Yields:
        The position of each batch, and its arrays: B is the host's part of the plan's rows.
    """
    first = step_of(plans, start)
    left = _HostBatches(tuple(plans), host, hosts, first)
    if not len(left):
        return
    left[0]  # raises for a wrong number of hosts here, not in a worker
    with contextlib.closing(load_each(left, feed, workers)) as forests:
        for step, forest in enumerate(forests, start=first):
            yield position_of(plans, step), forest


def load_each(source: Sequence[Rows], feed: Feed, workers: int) -> Iterator[Forest]:
    """Loads each of the batches in `source`, in order; close the iterator to stop its workers.

    Raises:
        LostError: a worker was killed.
    """
    iterator = iter(_loading(source, feed, workers))
    try:
        for forest in iterator:
            yield _out_of_shared_memory(forest) if workers else forest
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        message = "a process that loads posts was killed, perhaps for lack of memory; start the command again to resume"
        raise LostError(message) from error
    finally:
        iterator.close()
        del iterator
        gc.collect()  # Grain's reference cycles hold its last batches, which would leak shared memory


def _loading(source: Sequence[Rows], feed: Feed, workers: int) -> "grain.IterDataset[Forest]":
    import grain  # here, as it imports jax

    reading = grain.ReadOptions(num_threads=1 if workers else 2, prefetch_buffer_size=BUFFERED)
    loaded = grain.MapDataset.source(source).map(feed.load).to_iter_dataset(reading)
    if not workers:
        return loaded
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads its flags, though no program may have parsed any
    sharing = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=BUFFERED)
    return loaded.mp_prefetch(sharing, worker_init_fn=_begin_worker)


@dataclasses.dataclass(frozen=True)
class _HostBatches(Sequence[Rows]):
    """The rows of one host in every batch of every epoch, from step `first` on."""

    plans: tuple[EpochPlan, ...]
    host: int
    hosts: int
    first: int

    def __len__(self) -> int:
        return sum(map(len, self.plans)) - self.first

    def __getitem__(self, number: int) -> Rows:
        epoch, batch = position_of(self.plans, self.first + number)
        return host_rows(self.plans[epoch][batch], self.host, self.hosts)


def _out_of_shared_memory(forest: Forest) -> Forest:
    """A copy: a batch kept to the end of the run would be reported on stderr as a leak of shared memory."""
    return map_arrays(np.array, forest)


def _begin_worker(index: int, count: int) -> None:
    """Keeps a worker off the accelerator, and ends it with the run, however that ends."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if jax := sys.modules.get("jax"):  # Grain imports it before this; no device is opened yet
        jax.config.update("jax_platforms", "cpu")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the run itself stops its workers
    threading.Thread(target=_end_with_the_run, daemon=True).start()


def _end_with_the_run() -> None:
    run = multiprocessing.parent_process()
    if run is not None:
        run.join()
        os._exit(1)  # the run was killed: nobody takes another batch
