"""The plan: each post once an epoch, within the rows' limits, the same wherever and whenever it is made."""

import time

import numpy as np
import pytest

from mmkp_jax.data.forest import RowSize
from mmkp_jax.data.plan import EpochPlan, fill, host_rows, plan_epoch

ROW = RowSize(tokens=2048, labels=700, examples=8, images={"patches": 4608, "windows": 90})


def post_sizes(count: int, seed: int = 0) -> np.ndarray:
    """Sizes as posts have them under the 3B preset: an image of up to 576 image tokens, a chain of thought or none."""
    rng = np.random.default_rng(seed)
    patches = 4 * rng.integers(100, 577, count)
    labels = rng.integers(4, 15, count) + rng.integers(0, 2, count) * rng.integers(80, 260, count)
    tokens = patches // 4 + rng.integers(40, 100, count) + labels
    return np.stack([tokens, patches, -(-patches // 52), labels, np.ones_like(tokens)], axis=-1)


def plan(count: int = 500, **changes) -> EpochPlan:
    return plan_epoch(post_sizes(count), ROW, **{"seed": 0, "epoch": 0, "batch_rows": 10} | changes)


def rows_of(planned: EpochPlan) -> list[tuple[int, ...]]:
    return [row for batch in planned for row in batch]


@pytest.mark.parametrize("count", [1, 7, 64, 500])
def test_each_post_comes_once_an_epoch(count):
    planned = plan(count)
    assert sorted(post for row in rows_of(planned) for post in row) == list(range(count))
    assert all(len(batch) == 10 for batch in planned)


def test_only_the_posts_asked_for_are_planned():
    posts = np.arange(3, 400, 7)
    assert sorted(post for row in rows_of(plan(posts=posts)) for post in row) == posts.tolist()


def test_no_row_holds_more_than_it_can():
    sizes = post_sizes(500)
    for row in rows_of(plan()):
        assert (sizes[list(row)].sum(axis=0) <= list(ROW.slots().values())).all()


def test_empty_rows_are_at_the_end_only():
    rows = rows_of(plan())
    empty = sum(not row for row in rows)
    assert empty < 10
    assert all(rows[: len(rows) - empty])


def test_seeds_repeat_and_epochs_differ():
    assert rows_of(plan()) == rows_of(plan())
    assert rows_of(plan()) != rows_of(plan(epoch=1)) != rows_of(plan(seed=1))


@pytest.mark.parametrize("hosts", [1, 2, 5])
def test_hosts_agree_and_are_disjoint(hosts):
    for batch in plan():
        parts = [host_rows(batch, host, hosts) for host in range(hosts)]
        assert [row for part in parts for row in part] == batch
        assert {len(part) for part in parts} == {10 // hosts}


def test_rows_that_cannot_be_divided_are_reported():
    with pytest.raises(ValueError, match="10 rows cannot be divided equally among 3 hosts"):
        host_rows(plan()[0], 0, 3)


@pytest.mark.parametrize("count, posts_per_step", [(500, 1), (500, 7), (41, 20), (5, 20)])
def test_a_step_holds_exactly_the_posts_asked_for_and_the_last_of_an_epoch_the_rest(count, posts_per_step):
    planned = plan(count, posts_per_step=posts_per_step)
    held = [sum(map(len, batch)) for batch in planned]
    assert len(planned) == -(-count // posts_per_step)
    assert held[:-1] == [posts_per_step] * (len(held) - 1) and held[-1] == (count % posts_per_step or posts_per_step)
    assert sorted(post for row in rows_of(planned) for post in row) == list(range(count))
    assert all(len(batch) == planned.batch_rows == 10 for batch in planned)
    sizes = post_sizes(count)
    assert all((sizes[list(row)].sum(axis=0) <= list(ROW.slots().values())).all() for row in rows_of(planned))


def test_steps_of_a_number_of_posts_take_them_in_the_shuffled_order():
    """So N posts a step are N single steps put together, whatever the rows are."""
    single = [posts for batch in plan(50, posts_per_step=1, batch_rows=1) for (posts,) in batch]
    for rows in (4, 10):
        grouped = [
            sorted(post for row in batch for post in row) for batch in plan(50, posts_per_step=6, batch_rows=rows)
        ]
        assert grouped == [sorted(single[start : start + 6]) for start in range(0, 50, 6)]
    assert single != [posts for batch in plan(50, posts_per_step=1, epoch=1) for row in batch for posts in row]


@pytest.mark.parametrize("hosts", [1, 2, 5])
def test_hosts_share_the_rows_of_a_step_the_empty_ones_too(hosts):
    for batch in plan(posts_per_step=3):
        parts = [host_rows(batch, host, hosts) for host in range(hosts)]
        assert [row for part in parts for row in part] == batch and {len(part) for part in parts} == {10 // hosts}
        assert sum(len(row) for part in parts for row in part) in (3, 500 % 3)


def test_a_plan_shows_how_many_rows_the_posts_of_a_step_need():
    """So that the caller can say it: a row holds one to three of these posts."""
    tight = plan(posts_per_step=20, batch_rows=2)
    assert 20 / 3 <= tight.batch_rows <= 20 and len(tight) == 25
    assert any(len(batch[-1]) for batch in tight)


def test_what_cannot_be_planned_is_reported():
    with pytest.raises(ValueError, match="no posts"):
        plan(posts=np.zeros(0, int))
    with pytest.raises(ValueError, match="does not fit"):
        plan_epoch(post_sizes(5) * 100, ROW, seed=0, epoch=0, batch_rows=1)
    with pytest.raises(IndexError):
        plan()[-1]


def test_rows_are_full_and_planned_fast():
    sizes = post_sizes(20_000)
    begun = time.perf_counter()
    planned = plan_epoch(sizes, ROW, seed=0, epoch=0, batch_rows=10)
    assert time.perf_counter() - begun < 5  # 330,000 posts took 5 s
    assert max(fill(planned, sizes, ROW).values()) > 0.9
