"""Several datasets as one: their posts numbered consecutively, and how often each comes in an epoch."""

import bisect
import hashlib
from collections.abc import Sequence

import numpy as np

from mmkp_jax.data.posts import Record
from mmkp_jax.data.size_index import Records


class JoinedRecords:
    """The records of several datasets, one dataset after the other."""

    def __init__(self, parts: Sequence[Records]):
        self._parts = tuple(parts)
        self.starts = [sum(map(len, parts[:part])) for part in range(len(parts))]
        """The number of each dataset's first post."""
        self.fingerprint = hashlib.sha256(" ".join(part.fingerprint for part in parts).encode()).hexdigest()

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __getitem__(self, number: int) -> Record:
        part = bisect.bisect_right(self.starts, number) - 1
        return self._parts[part][number - self.starts[part]]


def posts_of_epoch(posts: np.ndarray, weight: float, *, seed: int, epoch: int) -> np.ndarray:
    """The posts of a dataset that `epoch` trains on, ascending; over the epochs, each comes `weight` times an epoch.

    An epoch takes the next `weight * len(posts)` of one seeded order, which repeats. So at weight 2 each
    post comes twice an epoch, at 0.5 two epochs together take each once, and at 1 an epoch is `posts` itself.
    """
    order = np.random.default_rng([seed, 0, 1]).permutation(posts)  # another seed than the epochs' own, [seed, epoch]
    start, end = (round(weight * each * len(posts)) for each in (epoch, epoch + 1))
    return np.sort(order[np.arange(start, end) % len(posts)])
