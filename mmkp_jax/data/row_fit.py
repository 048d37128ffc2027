"""How posts fit rows of a size: what is trimmed, what is left out, and how full the rows get."""

import dataclasses
from typing import NamedTuple

import numpy as np

from mmkp_jax.data.examples import Branch
from mmkp_jax.data.forest import RowSize
from mmkp_jax.data.plan import fill, plan_epoch
from mmkp_jax.data.size_index import LeftOut, Lengths, select_posts, sizes_of


class SlotUse(NamedTuple):
    """Use of one kind of slot, such as tokens."""

    row: int
    """Slots that a row has."""
    most: int
    """Slots that the largest post takes."""
    fill: float
    """Share of all rows' slots that are filled in an epoch, 0–1."""


@dataclasses.dataclass(frozen=True, eq=False)
class RowFit:
    """A split's posts in rows of one size."""

    posts: np.ndarray
    """int64: the numbers of the posts that are trained on."""
    left_out: list[LeftOut]
    rows: int
    """Rows of an epoch, including empty ones that complete its last batch."""
    batches: int
    batch_rows: int
    """Rows of a batch; more than requested where the posts of a step need them."""
    slots: dict[str, SlotUse]
    """Use of each kind of slot, by the names of `RowSize.slots`."""
    tokens_N: np.ndarray
    """int64: the token slots that each post takes."""


def fit_rows(
    lengths: Lengths,
    size: RowSize,
    branches: tuple[Branch, ...],
    *,
    batch_rows: int,
    seed: int,
    posts_per_step: int = 0,
) -> RowFit:
    """Plans the first epoch as training does, and reports what becomes of its posts."""
    posts, left_out = select_posts(lengths, size, branches)
    size_NX = sizes_of(lengths, branches)
    planned = {"seed": seed, "epoch": 0, "batch_rows": batch_rows, "posts_per_step": posts_per_step}
    plan = plan_epoch(size_NX, size, posts=posts, **planned) if len(posts) else None
    used = fill(plan, size_NX, size) if plan else dict.fromkeys(size.slots(), 0.0)
    most_X = size_NX.max(axis=0, initial=0).tolist()
    slots = {
        name: SlotUse(limit, most, used[name]) for (name, limit), most in zip(size.slots().items(), most_X, strict=True)
    }
    return RowFit(
        posts=posts,
        left_out=left_out,
        rows=plan.rows if plan else 0,
        batches=len(plan) if plan else 0,
        batch_rows=plan.batch_rows if plan else batch_rows,
        slots=slots,
        tokens_N=size_NX[:, list(size.slots()).index("tokens")],
    )


def one_of_each_kind(lengths: Lengths, trimmed_N: np.ndarray, posts: np.ndarray, most: int = 4) -> list[int]:
    """The numbers of a few of `posts`: the first of each kind, the commonest kinds first.

    A kind is given by whether there is an image, whether there is a chain of thought, and whether the text is trimmed.
    """
    kind_N3 = np.stack([lengths.image_N > 0, lengths.cot_N > 0, trimmed_N], axis=-1)[posts]
    _, first, count = np.unique(kind_N3, axis=0, return_index=True, return_counts=True)
    return posts[first[np.argsort(-count, kind="stable")]][:most].tolist()
