"""Two processes under jax.distributed plan alike and part the posts between them: each once, none twice."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.data.test_mixing import COUNTS
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.posts_on_disk import write_posts

pytestmark = pytest.mark.nightly  # tests/experiment/test_hosts.py trains on two hosts by default


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> list[dict]:
    """What each of the processes saw, of a first dataset at weight 1 and a second at weight 2."""
    folder = tmp_path_factory.mktemp("two")
    datasets = [folder / str(number) / "out" for number in range(2)]
    for number, count in enumerate(COUNTS):
        write_posts(folder / str(number), count, seed=number)
    port = str(free_port())
    named = f"{datasets[0]},{datasets[1]}:2"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.one_of_two", port, str(number), str(folder), named],
            cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, stderr=subprocess.PIPE,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors.decode()[-3000:]
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(2)]


def test_two_processes_plan_alike(reported):
    one, other = reported
    assert one["hosts"] == other["hosts"] == 2
    assert one["plan"] == other["plan"]
    assert len(one["trained"]) == len(other["trained"]) == sum(one["steps"])


def test_two_processes_train_on_each_post_as_often_as_planned(reported):
    expected = Counter(range(COUNTS[0])) + Counter({COUNTS[0] + number: 2 for number in range(COUNTS[1])})
    first = reported[0]["steps"][0]
    for epoch in (slice(0, first), slice(first, None)):
        seen = [Counter(post for batch in process["trained"][epoch] for post in batch) for process in reported]
        assert seen[0] + seen[1] == expected
        assert (
            not set(seen[0]) & set(seen[1]) & set(range(COUNTS[0]))
        )  # those that come once are the one's or the other's


def test_two_processes_load_the_halves_of_each_batch(reported):
    batches = [batch for epoch in reported[0]["plan"] for batch in epoch]
    for batch, one, other in zip(batches, reported[0]["trained"], reported[1]["trained"], strict=True):
        half = len(batch) // 2
        assert one == [post for row in batch[:half] for post in row]
        assert other == [post for row in batch[half:] for post in row]
