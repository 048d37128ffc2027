"""The baseline on hidden states from end to end, on a small pocket."""

import json

import numpy as np
import pytest

from mmkp_jax import main, predict
from tests.support.small_pocket import TRAINED_ON, small_pocket

pytestmark = pytest.mark.nightly


def test_embeddings_run_is_fitted_once_and_predicts_again(tmp_path, capsys):
    pocket, workdir = small_pocket(tmp_path), tmp_path / "run"
    fields = {
        **{"make": "", "data.kinds": "", "model.path": pocket / "model", "data.path": pocket / "dataset"},
        **{"ablations": False, "classifier_steps": 20, "neighbours": 3},
    }
    flags = ["--config=configs/baselines/embeddings.py", *(f"--config.{name}={it}" for name, it in fields.items())]
    assert main.main([*flags, f"--workdir={workdir}"]) == 0
    assert "training posts" in capsys.readouterr().out
    results = json.loads((workdir / "results.json").read_text())
    assert results["all"]["n"] == 6
    (file,) = (workdir / "predictions").iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    seen = set(json.loads((workdir / "vocabulary.json").read_text())["keyphrases"])
    assert all(1 <= len(row["predicted"]) <= 5 and set(row["predicted"]) <= seen for row in rows[:-1])
    assert np.load(workdir / "embeddings.npz")["state_ND"].shape[0] == TRAINED_ON
    assert main.main([*flags, f"--workdir={workdir}"]) == 0
    assert "training posts" not in capsys.readouterr().out, "the states are read once"
    out = tmp_path / "again.jsonl"
    assert predict.main([f"--model={workdir}", f"--data={pocket / 'dataset'}", "--split=test", f"--out={out}"]) == 0
    again = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["predicted"] for row in again] == [row["predicted"] for row in rows]
