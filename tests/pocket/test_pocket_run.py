"""README's first run, whole: it learns, what it learns comes from pictures and texts, and transformers agrees."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmkp_jax.hf.verify import BOUND
from mmkp_jax.inference.export_run import export, facts_of, open_step, verify
from tests.support.small_pocket import ROOT, environment


@pytest.mark.nightly
@pytest.mark.timeout(3000)
def test_pocket_learns_from_pictures_and_from_texts(tmp_path, monkeypatch):
    command = [sys.executable, "-m", "mmkp_jax.main", f"--config={ROOT / 'configs/dyncot.py'}", "--workdir=run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment() | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    comparisons = json.loads((tmp_path / "run/comparisons.json").read_text())
    (model,) = [name for name in comparisons["scores"] if name.startswith("dyncot, step ")]

    def f1(of, who, group):
        return comparisons[of][who][group]["f1@1"]

    assert f1("scores", model, "seen") >= 3 * f1("scores", "most frequent", "seen")
    for kind, without in (("image", "pictures permuted"), ("text", "texts blanked")):
        baseline = max(f1("by_kind", who, kind) for who in ("most frequent", "nearest neighbour"))
        assert f1("by_kind", model, kind) >= 3 * baseline, kind
        assert f1("by_kind", without, kind) <= baseline + 0.02, kind

    monkeypatch.chdir(tmp_path)  # the run's paths are relative to it
    step, opened = open_step(Path("run"), "latest")
    export(step, facts_of(step), Path("out"))
    verdict = verify(step, opened, Path("out"), posts=100)
    assert verdict.posts == 100 and verdict.logits <= BOUND and verdict.other_answers == []
