"""Features of images from a model's vision tower, as the traditional models read them.

B posts, R regions, S slots of the first kind that an image takes, X numbers of a slot.

The tower's features of an image, in the order of its slots, are cut into R runs of like length, whose means are the
regions. A run keeps them in its work directory, so that each image is computed once.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmkp_jax.data.examples import tree_of
from mmkp_jax.data.feature_store import FeatureKind, FeatureStore, digest_of
from mmkp_jax.data.forest import RowSize, Tree, pack_rows, tree_size
from mmkp_jax.data.posts import Record
from mmkp_jax.data.processor import Processor
from mmkp_jax.errors import InputError
from mmkp_jax.inference.load_model import load_model
from mmkp_jax.models.definition import flatten, unflatten
from mmkp_jax.models.digest import digests_of
from mmkp_jax.models.features import as_values, feature_kind, params_read

REGIONS = 49
"""Regions of an image, as many as VGG16's last pooling has (CMKP)."""

FOLDER = "image_features"
"""Folder of a work directory."""

SHORTEST = 64
"""Tokens of the shortest row that an image is laid in; longer ones have this times a power of 2."""


class TowerRegions:
    """Regions of images, computed from the images' own bytes (`baselines.sidecars.Regions`).

    Args:
        model: as for `load_model`.
        kept: where features are kept; None keeps none.

    Raises:
        InputError: there is no such model, or it takes no images.
    """

    by_image = True

    def __init__(self, model: str, kept: Path | None = None):
        loaded = load_model(model)
        if not loaded.definition.processor.values:
            raise InputError("the model takes no images", f"config.data.image_features={model}", "name another")
        self._definition, self._recipe, self._dtype = loaded.definition, loaded.recipe, loaded.dtype
        params = flatten(loaded.params)
        self._tower = unflatten({path: params[path] for path in params_read(self._definition, self._dtype)})
        width = feature_kind(self._definition, self._dtype).width
        self.shape = (REGIONS, width)
        self._store = self._store_in(kept, FeatureKind(width, "float32")) if kept else None
        self._there = self._store.present() if self._store else set()
        self._encode = jax.jit(lambda tower, images: self._definition.bind(tower).encode(images, self._dtype))

    def read(self, records: Sequence[Record]) -> np.ndarray:
        """`region_BRX`, float32; 0 for a post without an image."""
        out = np.zeros((len(records), *self.shape), np.float32)
        for number, record in enumerate(records):
            if record.image:
                out[number] = self._of(record)
        return out

    def _of(self, record: Record) -> np.ndarray:
        """`region_RX` of a post's image."""
        digest = digest_of(record.image)
        if self._store and digest in self._there:
            return self._store.read(record.image, REGIONS)
        tree = tree_of(dataclasses.replace(record, text=""), self._recipe, ())
        processor = self._definition.processor
        size = _size_for(tree, processor)
        images = pack_rows([[tree]], size, processor).images
        slots = getattr(images, processor.values).shape[1]
        value_SX = np.asarray(_numbers(as_values(self._encode(self._tower, images), slots)))[0]
        region_RX = runs_of(value_SX[: tree.layouts[0].slots[0]])
        if self._store:
            self._store.write(digest, region_RX)
            self._there.add(digest)
        return region_RX

    def _store_in(self, folder: Path, kind: FeatureKind) -> FeatureStore:
        """The store in a folder that is named by all that features depend on, except the images."""
        of = self._definition
        named = (REGIONS, of.family.name, of.processor.fingerprint, digests_of(self._tower), kind, str(self._dtype))
        return FeatureStore(folder / hashlib.sha256(repr(named).encode()).hexdigest()[:16], kind)


def runs_of(value_SX: np.ndarray) -> np.ndarray:
    """`region_RX`: the means of `REGIONS` runs of like length; of fewer slots the slots, and 0s behind them."""
    out = np.zeros((REGIONS, value_SX.shape[1]), np.float32)
    for number, run_SX in enumerate(np.array_split(value_SX, min(REGIONS, len(value_SX)))):
        out[number] = run_SX.mean(axis=0)
    return out


def _numbers(value_BSX: jax.Array) -> jax.Array:
    """The numbers of features as rows hold them, float32."""
    if value_BSX.dtype == jnp.uint16:
        value_BSX = jax.lax.bitcast_convert_type(value_BSX, jnp.bfloat16)
    return value_BSX.astype(jnp.float32)


def _size_for(tree: Tree, processor: Processor) -> RowSize:
    """The least of a few sizes that a row with the tree can have, so that few programs are compiled."""
    need, tokens = tree_size(tree, processor), SHORTEST
    while True:
        images = processor.default_slots(tokens)
        if need.tokens <= tokens and all(images[kind] >= slots for kind, slots in need.images.items()):
            return RowSize(tokens, 0, 1, {kind: images[kind] for kind in processor.slots})
        tokens *= 2
