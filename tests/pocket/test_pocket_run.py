"""README's first run: it learns from images and texts, and transformers agrees."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmkp_jax.hf.verify import BOUND
from mmkp_jax.inference.export_run import export, facts_of, open_step
from mmkp_jax.inference.verify_export import verify
from tests.support.needs_torch import needs_torch
from tests.support.paths import ROOT
from tests.support.small_pocket import environment


def pocket_run(folder: Path, *flags: str, config: str = "dyncot") -> dict:
    """The comparisons that README's command writes when it runs in a folder."""
    config = f"--config={ROOT / 'configs' / config}.py"
    command = [sys.executable, "-m", "mmkp_jax.main", config, "--workdir=run", *flags]
    paths = environment() | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}  # compiled as a user has it
    done = subprocess.run(command, cwd=folder, env=paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "run/comparisons.json").read_text())


def transformers_agrees(posts: int) -> None:
    """The last step, exported, gives the same logits and completions in transformers."""
    step, opened = open_step(Path("run"), "latest")
    export(step, facts_of(step), Path("out"))
    needs_torch()
    verdict = verify(step, opened, Path("out"), posts=posts)
    assert verdict.posts == posts and verdict.logits <= BOUND and verdict.other_answers == []


def test_in_few_steps_pocket_begins_to_learn(tmp_path):
    flags = [
        "--config.total_steps=60",
        "--config.warmup_steps=10",
        "--config.eval_posts=12",
        "--config.ablations=False",
    ]
    scores = pocket_run(tmp_path, *flags)["scores"]
    assert set(scores) == {"dyncot, step 60", "most frequent", "nearest neighbour"}
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-15:]) < 0.9 * sum(losses[:15])


def test_the_weights_that_ship_answer_posts_before_any_step(tmp_path):
    scores = pocket_run(tmp_path, "--config.eval_posts=24", "--config.ablations=False", config="zeroshot")["scores"]
    (model,) = scores.keys() - {"most frequent", "nearest neighbour"}
    assert scores[model]["all"]["f1@1"] > 0.15  # 0.42 on all 400 posts


@pytest.mark.nightly
@pytest.mark.timeout(3000)
def test_pocket_learns_from_images_and_from_texts(tmp_path, monkeypatch):
    comparisons = pocket_run(tmp_path)
    (model,) = [name for name in comparisons["scores"] if name.startswith("dyncot, step ")]

    def f1(of, who, group):
        return comparisons[of][who][group]["f1@1"]

    baselines = ("most frequent", "nearest neighbour")
    assert f1("by_kind", model, "place") > 0.9
    for kind in ("place", "seen_fact"):
        assert f1("by_kind", model, kind) > 1.5 * max(f1("by_kind", who, kind) for who in baselines), kind
        assert f1("by_kind", model, kind) > 2 * f1("by_kind", "texts blanked", kind), kind
    assert f1("by_kind", model, "seen_fact") > f1("by_kind", "images permuted", "seen_fact")
    monkeypatch.chdir(tmp_path)  # the run's paths are relative to it
    transformers_agrees(posts=100)
