"""Features of images from a model's vision tower, as the traditional models read them.

B posts, R regions, N vectors of an image, X numbers of a vector.

What the tower says of an image, vector after vector, is cut into R runs of like length, whose means are the regions.
Each image is computed once, before training, and kept on disk.
"""

import dataclasses
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mmkp_jax.baselines.sidecars import without_image
from mmkp_jax.data.examples import tree_of
from mmkp_jax.data.feature_store import FeatureKind, FeatureStore, digest_of
from mmkp_jax.data.forest import RowSize, Tree, pack_rows, tree_size
from mmkp_jax.data.posts import Record
from mmkp_jax.data.processor import Processor
from mmkp_jax.errors import InputError
from mmkp_jax.inference.load_model import load_model
from mmkp_jax.models.definition import flatten, unflatten
from mmkp_jax.models.digest import digests_of
from mmkp_jax.models.features import params_read, vector_width

REGIONS = 49
"""Regions of an image, as many as VGG16's last pooling has (CMKP)."""

FOLDER = "image_features"
"""Folder of a work directory."""

VERSION = 2
"""Increased when the same tower gives other regions."""

SHORTEST = 64
"""Tokens of the shortest row that an image is laid in; longer ones have this times a power of 2."""

FIELD = "config.data.image_features"


class TowerRegions:
    """Regions of images, computed from the images' own bytes (`baselines.sidecars.Regions`).

    Args:
        model: as for `load_model`.
        run: a run's folder of features, which must be of this tower if there are any; None for no run.
        keep: whether features are kept in `run`; else they are gone with this.

    Raises:
        InputError: there is no such model, its tower cannot be used, or the run's features are of another one.
    """

    def __init__(self, model: str, run: Path | None = None, *, keep: bool = False):
        loaded = load_model(model)
        processor = loaded.definition.processor
        if not processor.values:
            raise InputError("the model takes no images", f"{FIELD}={model}", "name another")
        if processor.slots == ("images",):
            what = "this model's tower fills every image up, and filling cannot be left out"
            raise InputError(what, f"{FIELD}={model}", "name a Qwen2.5-VL or an InternVL3")
        self._definition, self._recipe, self._dtype = loaded.definition, loaded.recipe, loaded.dtype
        params = flatten(loaded.params)
        self._tower = unflatten({path: params[path] for path in params_read(self._definition, self._dtype)})
        self.shape = (REGIONS, vector_width(self._definition, self._dtype))
        name = self._name()
        others = [each.name for each in run.iterdir() if each.name != name] if run and run.is_dir() else []
        if others:
            what = "the run's features are of another tower (other weights, or settings of images)"
            raise InputError(what, f"{FIELD}={model}", "put back the model that the run was started with")
        self._temporary = None if keep else tempfile.TemporaryDirectory()
        folder = run if keep else Path(self._temporary.name)
        self._store = FeatureStore(folder / name, FeatureKind(self.shape[1], "float32"))
        self._there = self._store.present()
        self._encode = jax.jit(lambda tower, images: self._definition.bind(tower).encode(images, self._dtype))

    def keep(self, record: Record) -> Record:
        """As `Regions.keep`: the image's digest in place of its bytes, when its features are on disk."""
        if not record.image:
            return without_image(record)
        digest = digest_of(record.image)
        if digest not in self._there:
            self._store.write(digest, self._of(record))
            self._there.add(digest)
        return dataclasses.replace(without_image(record), image=digest.encode())

    def read(self, records: Sequence[Record]) -> np.ndarray:
        """`region_BRX` of posts that `keep` returned, float32; 0 for a post without an image."""
        out = np.zeros((len(records), *self.shape), np.float32)
        for number, record in enumerate(records):
            if record.image:
                out[number] = self._store.read_named(record.image.decode(), REGIONS)
        return out

    def _of(self, record: Record) -> np.ndarray:
        """`region_RX` of a post's image."""
        tree = tree_of(dataclasses.replace(record, text=""), self._recipe, ())
        processor = self._definition.processor
        images = pack_rows([[tree]], _size_for(tree, processor), processor).images
        slots = getattr(images, processor.values).shape[1]
        value_1NX = np.asarray(self._encode(self._tower, images).astype(jnp.float32))
        value_NX = value_1NX.reshape(-1, self.shape[1])
        return runs_of(value_NX[: len(value_NX) * tree.layouts[0].slots[0] // slots])

    def _name(self) -> str:
        """A name of all that features depend on, except the images."""
        of = self._definition
        model = of.family.name, of.processor.fingerprint, digests_of(self._tower), str(self._dtype)
        return hashlib.sha256(repr((VERSION, self.shape, model)).encode()).hexdigest()[:16]


def runs_of(value_NX: np.ndarray) -> np.ndarray:
    """`region_RX`: the means of `REGIONS` runs of like length; of fewer vectors the vectors, and 0s behind them."""
    out = np.zeros((REGIONS, value_NX.shape[1]), np.float32)
    for number, run_NX in enumerate(np.array_split(value_NX, min(REGIONS, len(value_NX)))):
        out[number] = run_NX.mean(axis=0)
    return out


def _size_for(tree: Tree, processor: Processor) -> RowSize:
    """The least of a few sizes that a row with the tree can have, so that few programs are compiled."""
    need, tokens = tree_size(tree, processor), SHORTEST
    while True:
        images = processor.default_slots(tokens)
        if need.tokens <= tokens and all(images[kind] >= slots for kind, slots in need.images.items()):
            return RowSize(tokens, 0, 1, {kind: images[kind] for kind in processor.slots})
        tokens *= 2
