"""A run's features of images: what `config.data.features` lacks is computed once, before the first step.

R rows of a batch over all hosts, an image each; S slots of the first kind, X numbers of a slot.

An image's features do not depend on which others are missing, so a pass that is killed and resumed writes the same
numbers as an unbroken one. Each host computes its share of every batch, into a folder that all hosts see.
"""

import contextlib
import dataclasses
import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from mmkp_jax.data.feature_store import FeatureKind, FeatureStore
from mmkp_jax.data.forest import Forest, RowSize, map_arrays
from mmkp_jax.data.image_list import PostImages, images_of
from mmkp_jax.data.pipeline import Feed, load_each
from mmkp_jax.data.plan import Rows
from mmkp_jax.data.processor import Processor
from mmkp_jax.errors import InputError
from mmkp_jax.models.definition import Definition, Params, flatten, unflatten
from mmkp_jax.models.digest import digests_of
from mmkp_jax.models.features import as_values, feature_kind, params_read
from mmkp_jax.models.freezing import join_params, split_trained
from mmkp_jax.models.sharding import place_batch
from mmkp_jax.ops.layout import ROW_AXES
from mmkp_jax.runtime.hosts import check_agreement, true_on_all_hosts, wait_for_all
from mmkp_jax.runtime.progress import Progress
from mmkp_jax.training.batches import TrainingData
from mmkp_jax.training.setup import Plan, dtype_of
from mmkp_jax.training.step import State

VERSION = 1
"""Number of the way in which features are computed and stored; files of another one are not read."""

SPARE = 64 << 20
"""Bytes that stay free on the disk."""

WRITERS = 4
"""Threads that write features."""


def why_unused(config: ConfigDict, definition: Definition) -> str | None:
    """Why `data.features` has no effect in a run that trains; None where it has one."""
    if not definition.processor.values:
        return "the model takes no images"
    trained = flatten(split_trained(definition, definition.shapes(), config.freeze)[0])
    read = [path for path in params_read(definition, dtype_of(config, "compute_dtype")) if path in trained]
    return f"{read[0]} trains, and features depend on it (config.freeze)" if read else None


def planned_features(config: ConfigDict, definition: Definition) -> FeatureKind | None:
    """The features that rows hold in place of pixels; None in a run that computes them in each step."""
    if not config.data.features or why_unused(config, definition):
        return None
    return feature_kind(definition, dtype_of(config, "compute_dtype"))


def feed_of(
    config: ConfigDict, plan: Plan, state: State, training: TrainingData, stopped: Callable[[], bool]
) -> Feed | None:
    """The run's feed: with features in place of images, all of them stored, where the config asks for it.

    Args:
        stopped: whether the run was asked to stop; called between batches.

    Returns:
        None if the run was stopped.

    Raises:
        InputError: the folder cannot be written, has no room, or is not the same on all hosts.
    """
    if not config.data.features:
        return training.feed
    root, feed = Path(config.data.features).expanduser(), training.feed
    reason, images = why_unused(config, plan.definition), None
    if not reason:
        images = images_of(feed.records, feed.recipe, training.posts, root)
        reason = None if len(images.distinct()) else "no post has an image"
    if reason or images is None:
        print(f"note: data.features={config.data.features} has no effect: {reason}")
        return feed
    store = store_of(config, plan, state, feed.recipe.processor)
    missing = missing_of(store, images)
    _report(store, images, missing)
    check_agreement({"list of missing features": repr(images.digest_N[missing].tolist())})
    wait_for_all("missing features are listed")
    if len(missing):
        if not _compute(config, plan, state, feed, store, images, missing, stopped):
            return None
        wait_for_all("features are written")
        if not true_on_all_hosts(not len(missing_of(store, images))):
            what, hint = "not all features that the hosts wrote are there", "give a folder that all hosts share"
            raise InputError(what, f"config.data.features={root}", hint)
    return dataclasses.replace(feed, features=store)


def store_of(config: ConfigDict, plan: Plan, state: State, processor: Processor) -> FeatureStore:
    """The features of the state's tower, in a folder named by a hash of all that they depend on, except the images."""
    dtype, params = dtype_of(config, "compute_dtype"), flatten(join_params(state["trainable"], state["frozen"]))
    tower = unflatten({path: params[path] for path in params_read(plan.definition, dtype)})
    kind = feature_kind(plan.definition, dtype)
    named = (VERSION, plan.definition.family.name, processor.fingerprint, digests_of(tower), kind)
    key = hashlib.sha256(repr(named).encode()).hexdigest()[:16]
    return FeatureStore(Path(config.data.features).expanduser() / key, kind)


def missing_of(store: FeatureStore, images: PostImages) -> np.ndarray:
    """The rows of `images` with an image whose features are not there, one for each, int64, ascending."""
    present = store.present()
    return np.asarray([n for n in images.distinct().tolist() if images.digest_N[n] not in present], np.int64)


def _report(store: FeatureStore, images: PostImages, missing: np.ndarray) -> None:
    """Prints how large the features are, and checks that the missing ones find room."""
    size_N, distinct = images.slot_NX[:, 0].astype(np.int64) * store.kind.bytes, images.distinct()
    needed, each = int(size_N[missing].sum()), in_units(size_N.sum() / len(size_N))
    all_of_them = f"{len(distinct):,} images, {each} a post, {in_units(size_N[distinct].sum())}"
    store.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(store.folder).free
    left = f"{len(missing):,} to compute: {in_units(needed)}, {in_units(free)} free" if len(missing) else "all there"
    print(f"features: {all_of_them} in {store.folder}; {left}")
    if len(missing) and needed + SPARE > free:
        what = f"the features of {len(missing):,} images take {in_units(needed)}, and {in_units(free)} are free"
        raise InputError(what, f"config.data.features={store.folder.parent}", "give a folder with more room, or none")


def in_units(number: float) -> str:
    """A number of bytes, to three digits, in a unit that suits it."""
    power = min(int(math.log10(number)) // 3, 4) if number >= 1 else 0
    return f"{number / 1000**power:.3g} {('B', 'KB', 'MB', 'GB', 'TB')[power]}"


def _compute(
    config: ConfigDict,
    plan: Plan,
    state: State,
    feed: Feed,
    store: FeatureStore,
    images: PostImages,
    missing: np.ndarray,
    stopped: Callable[[], bool],
) -> bool:
    """Computes and stores the features of `missing`; false if the run was stopped before the end."""
    most = dict(zip(feed.recipe.processor.slots, images.slot_NX.max(axis=0).tolist(), strict=True))
    slots = most[feed.recipe.processor.slots[0]]
    rows = _rows(config, plan, feed.size, slots)
    batches = [_own(missing[start : start + rows].tolist(), rows) for start in range(0, len(missing), rows)]
    source: list[Rows] = [[(int(images.post_N[n]),) if n is not None else () for n in own] for own in batches]
    only_images = Feed(feed.records, feed.recipe, RowSize(feed.size.tokens, 0, 1, most), ())
    compute = encoder(plan, dtype_of(config, "compute_dtype"), slots)
    params = join_params(state["trainable"], state["frozen"])

    def write(own: Sequence[int | None], values: jax.Array) -> None:
        value_RSX = _on_this_host(values, plan)
        filled = [(row, n) for row, n in enumerate(own) if n is not None]
        files = [(str(images.digest_N[n]), value_RSX[row, : images.slot_NX[n, 0]]) for row, n in filled]
        list(writers.map(lambda file: store.write(*file), files))
        bar.advance(len(files))

    alone, ended, last = jax.process_count() == 1, False, None
    own_images = sum(n is not None for own in batches for n in own)
    with (
        jax.set_mesh(plan.mesh),
        contextlib.closing(load_each(source, only_images, config.data.workers)) as forests,
        ThreadPoolExecutor(WRITERS) as writers,
        Progress(own_images, units="images", label="features", first="compiling, first images") as bar,
    ):
        for own, forest in zip(batches, forests, strict=True):
            if ended := alone and stopped():  # several hosts would have to stop at the same batch
                break
            values = compute(params, place_batch(map_arrays(lambda array: array[None], forest), plan.mesh))
            if last:  # written while this batch is computed
                write(*last)
            last = own, values
        if last:
            write(*last)
    return not ended


def encoder(plan: Plan, dtype: jnp.dtype, slots: int) -> Callable[[Params, Forest], jax.Array]:
    """The compiled tower: (parameters, a batch [1, R, …]) -> features as rows hold them, [R, S, X]."""

    def encode(params: Params, batch: Forest) -> jax.Array:
        images = jax.tree.map(lambda array: array[0], batch.images)
        return as_values(plan.definition.bind(params).encode(images, dtype), slots)

    return jax.jit(encode, out_shardings=NamedSharding(plan.mesh, PartitionSpec(ROW_AXES)))


def _rows(config: ConfigDict, plan: Plan, size: RowSize, slots: int) -> int:
    """R: on each device, as many images as fill a micro-batch's slots, and one at least."""
    shards = plan.mesh.shape["data"] * plan.mesh.shape["fsdp"]
    rows = config.global_batch_size // (config.accumulation_steps * shards)
    return shards * max(1, rows * (size.images[plan.definition.processor.slots[0]] // slots))


def _own(batch: list[int], rows: int) -> list[int | None]:
    """This host's rows of a batch, filled up with None."""
    part = rows // jax.process_count()
    return [*batch, *[None] * (rows - len(batch))][jax.process_index() * part :][:part]


def _on_this_host(values: jax.Array, plan: Plan) -> np.ndarray:
    if jax.process_count() > 1:
        values = multihost_utils.global_array_to_host_local_array(values, plan.mesh, PartitionSpec(ROW_AXES))
    return np.asarray(values)
