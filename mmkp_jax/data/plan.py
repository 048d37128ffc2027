"""The packing plan: which posts go in which row of which batch, known before an epoch and the same on every host."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from mmkp_jax.data.forest import RowSize

OPEN_ROWS = 64
"""Rows that are open at a time; when a post fits none of them, the fullest is closed."""

Rows = list[tuple[int, ...]]
"""The numbers of the posts in each row, in order."""


@dataclasses.dataclass(frozen=True, eq=False)
class EpochPlan(Sequence[Rows]):
    """The batches of one epoch, by number. R rows in all, empty ones at the end of a batch included."""

    post_N: np.ndarray
    """int32: the posts' numbers, row after row."""
    bound_R1: np.ndarray
    """int64: row r holds the posts from `bound_R1[r]` to before `bound_R1[r + 1]`."""
    batch_rows: int
    """Rows of a batch: those requested, or more where the posts of a step need them."""

    @property
    def rows(self) -> int:
        """Number of rows, R."""
        return len(self.bound_R1) - 1

    def __len__(self) -> int:
        return self.rows // self.batch_rows

    def __getitem__(self, batch: int) -> Rows:
        if not 0 <= batch < len(self):
            raise IndexError(f"the epoch has {len(self)} batches, no batch {batch}")
        bounds = self.bound_R1[batch * self.batch_rows :][: self.batch_rows + 1].tolist()
        return [tuple(self.post_N[start:end].tolist()) for start, end in itertools.pairwise(bounds)]


def plan_epoch(
    size_NX: np.ndarray,
    size: RowSize,
    *,
    seed: int,
    epoch: int,
    batch_rows: int,
    posts: np.ndarray | None = None,
    posts_per_step: int = 0,
) -> EpochPlan:
    """Packs the posts, shuffled by (seed, epoch), into rows of `size`, and the rows into batches.

    With `posts_per_step`, a batch takes that many of the shuffled posts (the epoch's last one the rest), however
    empty its rows. Without it, the rows are shuffled too.

    Args:
        size_NX: slots that each post takes in a row (`size_index.sizes_of`), in the order of `RowSize.slots`.
        batch_rows: rows of a global batch.
        posts: the numbers of the posts to plan, each as often as it is to occur; by default all of them once.
        posts_per_step: posts of a batch, over all hosts; 0: as many as its rows hold.

    Returns:
        The plan, with more rows a batch than `batch_rows` where `posts_per_step` posts need them; check this.

    Raises:
        ValueError: a post does not fit a row, or there are no posts.
    """
    posts = np.arange(len(size_NX)) if posts is None else np.asarray(posts)
    limit_X, tree_X = (np.asarray(list(limits.values())) for limits in (size.slots(), size.tree_limits()))
    if not len(posts):
        raise ValueError("there are no posts to plan")
    if (size_NX[posts] > tree_X).any():
        raise ValueError("a post does not fit a row; plan those that `size_index.select_posts` returns")
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(posts)
    if posts_per_step:
        parts = range(0, len(shuffled), posts_per_step)
        steps = [_pack(shuffled[start : start + posts_per_step], size_NX, limit_X) for start in parts]
        batch_rows = max(batch_rows, *map(len, steps))
        return _epoch_plan([row for step in steps for row in step + [[]] * (batch_rows - len(step))], batch_rows)
    rows = _pack(shuffled, size_NX, limit_X)
    order = rng.permutation(len(rows))
    return _epoch_plan([rows[row] for row in order.tolist()] + [[]] * (-len(rows) % batch_rows), batch_rows)


def _epoch_plan(rows: Sequence[Sequence[int]], batch_rows: int) -> EpochPlan:
    post_N = np.fromiter(itertools.chain.from_iterable(rows), np.int32)
    return EpochPlan(post_N, np.cumsum([0, *map(len, rows)]), batch_rows)


def _pack(post_N: np.ndarray, size_NX: np.ndarray, limit_X: np.ndarray) -> list[list[int]]:
    """First fit, in the order of `post_N`, among the open rows."""
    left_RX = np.repeat(limit_X[None], OPEN_ROWS, axis=0)
    open_rows: list[list[int]] = [[] for _ in range(OPEN_ROWS)]
    closed = []
    scale_X = 1 / np.maximum(limit_X, 1)
    for post, need_X in zip(post_N.tolist(), size_NX[post_N], strict=True):
        fits_R = (left_RX >= need_X).all(axis=1)
        row = int(fits_R.argmax())
        if not fits_R[row]:
            row = int((left_RX * scale_X).min(axis=1).argmin())
            closed.append(open_rows[row])
            open_rows[row], left_RX[row] = [], limit_X
        open_rows[row].append(post)
        left_RX[row] -= need_X
    return closed + [row for row in open_rows if row]


def host_rows(batch: Rows, host: int, hosts: int) -> Rows:
    """The rows of a global batch that `host`, from 0, of `hosts` loads: an equal, contiguous part.

    Raises:
        ValueError: the rows do not divide equally.
    """
    if len(batch) % hosts:
        raise ValueError(f"a batch of {len(batch)} rows cannot be divided equally among {hosts} hosts")
    part = len(batch) // hosts
    return batch[host * part : (host + 1) * part]


def fill(plan: EpochPlan, size_NX: np.ndarray, size: RowSize) -> dict[str, float]:
    """The share of an epoch's slots that hold something, 0–1, by the names of `RowSize.slots`."""
    used_X = size_NX[plan.post_N].sum(axis=0)
    return {name: float(u / (s * plan.rows)) for u, (name, s) in zip(used_X, size.slots().items(), strict=True)}
