"""Pretraining of pocket's model in small: the same seed gives the same bytes, and too few facts are not shipped."""

import pytest

from benchmarks import pocket_pretraining
from benchmarks.pocket_pretraining import run
from mmkp_jax.hf.tensors import WEIGHTS


@pytest.mark.nightly
def test_a_seed_gives_the_same_bytes_and_what_knows_too_little_is_not_taken(tmp_path, monkeypatch, capsys):
    corpus = pocket_pretraining.make_corpus
    monkeypatch.setattr(pocket_pretraining, "make_corpus", lambda *args: corpus(*args)[::40])
    monkeypatch.setattr(pocket_pretraining, "PRETRAINED", tmp_path / "shipped")
    steps = ("--config.total_steps=8", "--config.num_epochs=0", "--config.warmup_steps=2")
    made = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        assert run([f"--out={tmp_path / name}", f"--seed={seed}", *steps]) == 1
        folder = tmp_path / name / "pretrained"
        made[name] = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    assert made["first"] == made["again"] and WEIGHTS in made["first"]
    assert made["other"][WEIGHTS] != made["first"][WEIGHTS]
    assert not (tmp_path / "shipped").exists() and "is not taken" in capsys.readouterr().out
