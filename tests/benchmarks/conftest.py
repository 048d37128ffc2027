"""The dataset of runs whose answers are known."""

import pytest

from benchmarks import scored
from mmkp_jax.data.posts import Post
from mmkp_jax.data.records import write_dataset
from tests.support.finished_runs import POSTS


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """In pocket's place: present keyphrases are seen, absent ones unseen."""
    monkeypatch.setattr(scored, "POCKET", tmp_path)
    train = Post("train-1", "walking a dog", None, ("a dog",), None, "f", 1)
    write_dataset(tmp_path / "dataset", {"train": [train], "test": POSTS}, tmp_path)
