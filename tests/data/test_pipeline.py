"""Whatever loads them - threads, workers, several hosts, a run begun anew - the batches are the planned ones."""

import dataclasses
import multiprocessing
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mmkp_jax.data.examples import BOTH, tree_of
from mmkp_jax.data.forest import Forest, map_arrays, pack_rows
from mmkp_jax.data.pipeline import Feed, Position, batches, position_of, step_of
from mmkp_jax.data.plan import plan_epoch
from mmkp_jax.data.size_index import measure_posts, select_posts, sizes_of
from mmkp_jax.errors import InputError
from tests.support.paths import ROOT
from tests.support.posts_on_disk import SIZE

EPOCHS = 2


@pytest.fixture(scope="module")
def feed(split, recipe):
    return Feed(split, recipe, SIZE)


@pytest.fixture(scope="module")
def plans(feed):
    return plans_of(feed)


@pytest.fixture(scope="module")
def whole(feed, plans):
    return list(batches(feed, plans))


def plans_of(feed: Feed):
    lengths = measure_posts(feed.records, feed.recipe)
    posts, _ = select_posts(lengths, feed.size, feed.branches)
    sizes = sizes_of(lengths, feed.branches)
    made = {"seed": 3, "batch_rows": 4, "posts": posts}
    return [plan_epoch(sizes, feed.size, epoch=epoch, **made) for epoch in range(EPOCHS)]


def assert_same(ours, theirs):
    assert [position for position, _ in ours] == [position for position, _ in theirs]
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        map_arrays(np.testing.assert_array_equal, a, b)


def test_batches_are_the_planned_posts(feed, plans, whole):
    assert [position for position, _ in whole] == [Position(e, b) for e in range(EPOCHS) for b in range(len(plans[e]))]
    assert len(plans[0]) > 1
    for (epoch, batch), forest in whole:
        trees = [[tree_of(feed.records[n], feed.recipe) for n in row] for row in plans[epoch][batch]]
        assert_same([(0, forest)], [(0, pack_rows(trees, SIZE, feed.recipe.processor))])


def test_every_post_and_every_label_comes_once_an_epoch(feed, plans, whole):
    expected = sizes_of(measure_posts(feed.records, feed.recipe), BOTH).sum(axis=0)
    for epoch in range(EPOCHS):
        forests = [forest for position, forest in whole if position.epoch == epoch]
        assert sum(int((f.segment_BT > 0).sum()) for f in forests) == expected[0]
        assert sum(int(f.weight_BM.sum()) for f in forests) == expected[-2]
        assert sum(int(f.segment_BT.max(axis=1).sum()) for f in forests) == len(feed.records)


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.nightly)])
def test_workers_load_the_same_batches(feed, plans, whole, workers):
    assert_same(list(batches(feed, plans, workers=workers)), whole)


@pytest.mark.parametrize("step", [0, 1, 3, -1])
def test_a_run_resumes_where_it_stopped(feed, plans, whole, step):
    step %= len(whole)
    assert_same(list(batches(feed, plans, start=position_of(plans, step))), whole[step:])


@pytest.mark.parametrize("workers", [0, 2])
def test_at_the_end_there_is_nothing_left(feed, plans, workers):
    assert list(batches(feed, plans, start=Position(EPOCHS, 0), workers=workers)) == []


def test_a_run_resumes_under_another_number_of_workers(feed, plans, whole):
    assert_same(list(batches(feed, plans, start=Position(1, 1), workers=2)), whole[step_of(plans, Position(1, 1)) :])


@pytest.mark.parametrize("hosts", [2, pytest.param(4, marks=pytest.mark.nightly)])
def test_hosts_together_load_the_whole_batch(feed, plans, whole, hosts):
    parts = [list(batches(feed, plans, host=host, hosts=hosts)) for host in range(hosts)]
    joined = [
        (whole[step][0], map_arrays(lambda *arrays: np.concatenate(arrays), *(part[step][1] for part in parts)))
        for step in range(len(whole))
    ]
    assert_same(joined, whole)


@pytest.mark.parametrize("branches", [("sft",), ("cot",)])
def test_only_the_asked_for_targets_are_packed(feed, branches):
    own = dataclasses.replace(feed, branches=branches)
    forests = [forest for _, forest in batches(own, plans_of(own))]
    labels = sizes_of(measure_posts(own.records, own.recipe), branches)[:, -2]
    assert sum(int(f.weight_BM.sum()) for f in forests) == EPOCHS * labels.sum()
    assert sum(int(f.segment_BT.max(axis=1).sum()) for f in forests) == EPOCHS * (labels > 0).sum()


def test_positions_and_steps_are_one(plans):
    steps = sum(map(len, plans))
    assert [step_of(plans, position_of(plans, step)) for step in range(steps + 1)] == list(range(steps + 1))
    assert position_of(plans, steps) == (EPOCHS, 0)
    assert step_of(plans, Position(0, len(plans[0]))) == step_of(plans, Position(1, 0))
    for wrong in (Position(EPOCHS, 1), Position(0, len(plans[0]) + 1), Position(-1, 0)):
        with pytest.raises(ValueError, match="no batch"):
            step_of(plans, wrong)
    with pytest.raises(ValueError, match="not"):
        position_of(plans, steps + 1)


def test_a_wrong_number_of_hosts_is_reported_at_once(feed, plans):
    with pytest.raises(ValueError, match="3 hosts"):
        next(batches(feed, plans, hosts=3))


@dataclasses.dataclass(frozen=True)
class Tell(Feed):
    """Loads nothing, but returns the worker's settings."""

    def load(self, rows):
        from jax._src import xla_bridge

        platforms, opened = sys.modules["jax"].config.jax_platforms, xla_bridge.backends_are_initialized()
        return Forest(np.asarray(platforms), np.asarray(opened), *[np.zeros(0)] * (len(Forest._fields) - 3))


def test_no_worker_opens_a_device(feed, plans, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")  # as a run on a GPU has it
    reported = next(batches(Tell(**vars(feed)), plans, workers=1))[1]
    assert (reported[0], reported[1]) == ("cpu", False)


def test_a_stopped_run_leaves_no_worker(feed, plans):
    going = batches(feed, plans, workers=2)
    next(going)
    assert multiprocessing.active_children()
    going.close()
    assert not multiprocessing.active_children()


@dataclasses.dataclass(frozen=True)
class Fail(Feed):
    """Fails as a bad record does."""

    def load(self, rows):
        raise InputError("it is damaged", "record 7", "prepare it again")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_fails_in_a_worker_is_reported_by_the_run(feed, plans, workers):
    with pytest.raises(InputError, match="record 7: it is damaged; prepare it again"):
        next(batches(Fail(**vars(feed)), plans, workers=workers))


RUN = """
import multiprocessing, pickle, sys, time
from mmkp_jax.data.pipeline import batches
if __name__ == "__main__":
    going = batches(*pickle.load(open(sys.argv[1], "rb")), workers=2)
    next(going)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


def test_a_killed_run_leaves_no_worker(feed, plans, tmp_path):
    (tmp_path / "feed").write_bytes(pickle.dumps((feed, plans * 200)))  # so many that no worker has ended by itself
    command = [sys.executable, "-c", RUN, str(tmp_path / "feed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as run:
        workers = [int(pid) for pid in run.stdout.readline().split()]
        assert len(workers) == 2
        run.kill()
    for _ in range(100):
        if not any(running(pid) for pid in workers):
            return
        time.sleep(0.1)
    pytest.fail(f"of the workers {workers} some go on")


def running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_the_data_modules_load_no_jax():
    script = (
        "import sys, importlib, pkgutil, mmkp_jax.data\n"
        "for m in pkgutil.iter_modules(mmkp_jax.data.__path__): importlib.import_module('mmkp_jax.data.' + m.name)\n"
        "sys.exit(sum(name in sys.modules for name in ('jax', 'flax', 'grain', 'tensorflow')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
