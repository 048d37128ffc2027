"""The images of posts, by the hash of each one's file, listed once: none is decoded.

N posts, X kinds of slots.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmkp_jax.data.examples import Recipe, layouts_of
from mmkp_jax.data.feature_store import digest_of
from mmkp_jax.data.forest import slots_of
from mmkp_jax.data.size_index import Records
from mmkp_jax.errors import InputError
from mmkp_jax.runtime.atomic import replacing


class PostImages(NamedTuple):
    """The images of N posts."""

    post_N: np.ndarray
    """int64: the posts' numbers, ascending."""
    digest_N: np.ndarray
    """Text: the hash of each post's image (`feature_store.digest_of`), empty without one."""
    slot_NX: np.ndarray
    """int32: slots of each of the family's kinds that the image takes in a row."""

    def distinct(self) -> np.ndarray:
        """The rows of posts whose image no earlier one has, int64, ascending."""
        digests, first = np.unique(self.digest_N, return_index=True)
        return np.sort(first[digests != ""])


def images_of(records: Records, recipe: Recipe, post_N: np.ndarray, folder: Path) -> PostImages:
    """The images of posts, from `folder` if they are listed there, else read and listed there.

    Raises:
        InputError: the folder cannot be written.
    """
    key = f"{records.fingerprint} {recipe.processor.fingerprint} {post_N.tolist()}"
    file = folder / f"images-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    with contextlib.suppress(Exception), np.load(file, allow_pickle=False) as kept:  # absent, or damaged: listed again
        images = PostImages(*(kept[name] for name in PostImages._fields))
        X = len(recipe.processor.slots)
        if np.array_equal(images.post_N, post_N) and images.slot_NX.shape == (len(images.digest_N), X):
            return images
    images = _read(records, recipe, post_N)
    try:
        with replacing(file, unique=True) as out:  # every host writes it
            np.savez(out, **images._asdict())
    except OSError as error:
        what = f"the folder cannot be written ({error.strerror or error})"
        raise InputError(what, f"config.data.features={folder}", "give another folder, or none") from None
    return images


def _read(records: Records, recipe: Recipe, post_N: np.ndarray) -> PostImages:
    digests, slots = [], []
    for number in post_N.tolist():
        record = records[number]
        layouts = layouts_of(record, recipe)
        digests.append(digest_of(record.image) if layouts else "")
        slots.append(slots_of(layouts, recipe.processor))
    return PostImages(post_N, np.asarray(digests, "U32"), np.asarray(slots, np.int32))
