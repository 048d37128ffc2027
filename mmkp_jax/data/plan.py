"""The packing plan: which posts go in which row of which batch, known before an epoch and the same on every host."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from mmkp_jax.data.forest import RowSize

OPEN_ROWS = 64
"""Rows that are filled at a time; when a post fits none of them, the fullest is closed."""

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
    """Rows of a batch: those asked for, or more where the posts of a step need them."""

    @property
    def rows(self) -> int:
        """R."""
        return len(self.bound_R1) - 1

    def __len__(self) -> int:
        return self.rows // self.batch_rows

    def __getitem__(self, batch: int) -> Rows:
        if not 0 <= batch < len(self):
            raise IndexError(f"the epoch has {len(self)} batches, no batch {batch}")
        bounds = self.bound_R1[batch * self.batch_rows :][: self.batch_rows + 1].tolist()
        return [tuple(self.post_N[start:end].tolist()) for start, end in itertools.pairwise(bounds)]


def plan_epoch(
    size_N5: np.ndarray,
    size: RowSize,
    *,
    seed: int,
    epoch: int,
    batch_rows: int,
    posts: np.ndarray | None = None,
    posts_per_step: int = 0,
) -> EpochPlan:
    """Packs the posts, shuffled by (seed, epoch), into rows of `size`, and the rows into batches.

    With `posts_per_step`, a batch takes the next so many of the shuffled posts, the last one of the epoch the rest, and
    its rows are as empty as those leave them. Without it, the rows are shuffled too.

    Args:
        size_N5: what each post takes of a row, as `size_index.sizes_of` tells.
        batch_rows: rows of a global batch.
        posts: the numbers of the posts to plan, each as often as it is to come; without it, all of them once.
        posts_per_step: posts of a batch, over all hosts; 0: as many as its rows hold.

    Returns:
        the plan, with more rows a batch than `batch_rows` where `posts_per_step` posts need them; check this.

    Raises:
        ValueError: a post does not fit a row, or there is none.
    """
    posts = np.arange(len(size_N5)) if posts is None else np.asarray(posts)
    limit_5 = np.asarray(dataclasses.astuple(size))
    if not len(posts):
        raise ValueError("there are no posts to plan")
    if (size_N5[posts] > limit_5).any():
        raise ValueError("a post does not fit a row; plan those that `size_index.choose` returns")
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(posts)
    if posts_per_step:
        parts = range(0, len(shuffled), posts_per_step)
        steps = [_pack(shuffled[start : start + posts_per_step], size_N5, limit_5) for start in parts]
        batch_rows = max(batch_rows, *map(len, steps))
        return _epoch_plan([row for step in steps for row in step + [[]] * (batch_rows - len(step))], batch_rows)
    rows = _pack(shuffled, size_N5, limit_5)
    order = rng.permutation(len(rows))
    return _epoch_plan([rows[row] for row in order.tolist()] + [[]] * (-len(rows) % batch_rows), batch_rows)


def _epoch_plan(rows: Sequence[Sequence[int]], batch_rows: int) -> EpochPlan:
    post_N = np.fromiter(itertools.chain.from_iterable(rows), np.int32)
    return EpochPlan(post_N, np.cumsum([0, *map(len, rows)]), batch_rows)


def _pack(post_N: np.ndarray, size_N5: np.ndarray, limit_5: np.ndarray) -> list[list[int]]:
    """First fit, in the order of `post_N`, among the last rows begun."""
    left_R5 = np.repeat(limit_5[None], OPEN_ROWS, axis=0)
    open_rows: list[list[int]] = [[] for _ in range(OPEN_ROWS)]
    closed = []
    scale_5 = 1 / np.maximum(limit_5, 1)
    for post, need_5 in zip(post_N.tolist(), size_N5[post_N], strict=True):
        fits_R = (left_R5 >= need_5).all(axis=1)
        row = int(fits_R.argmax())
        if not fits_R[row]:
            row = int((left_R5 * scale_5).min(axis=1).argmin())
            closed.append(open_rows[row])
            open_rows[row], left_R5[row] = [], limit_5
        open_rows[row].append(post)
        left_R5[row] -= need_5
    return closed + [row for row in open_rows if row]


def host_rows(batch: Rows, host: int, hosts: int) -> Rows:
    """The rows of a global batch that `host`, from 0, of `hosts` loads: an equal, contiguous part.

    Raises:
        ValueError: the rows cannot be parted equally.
    """
    if len(batch) % hosts:
        raise ValueError(f"a batch of {len(batch)} rows cannot be parted equally among {hosts} hosts")
    part = len(batch) // hosts
    return batch[host * part : (host + 1) * part]


def fill(plan: EpochPlan, size_N5: np.ndarray, size: RowSize) -> dict[str, float]:
    """The share of an epoch's slots that hold something, 0–1, by the names of `RowSize`."""
    used_5 = size_N5[plan.post_N].sum(axis=0)
    names = [field.name for field in dataclasses.fields(size)]
    return {n: float(u / (s * plan.rows)) for n, u, s in zip(names, used_5, dataclasses.astuple(size), strict=True)}
