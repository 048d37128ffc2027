"""The miniature of Table 4 in a smaller one: its command trains, asks, predicts in both modes, keeps and prints."""

import functools
import json

from benchmarks import gates, kept, scored, strategies
from benchmarks.systems import OURS, Job
from tests.support.finished_runs import row_of
from tests.support.small_pocket import command, metrics, small_pocket

SYSTEMS = ("zeroshot", OURS)


def test_runs_modes_facts_gates_and_kept_scores_come_of_one_command(tmp_path, monkeypatch, capsys):
    """Dynamic CoT in twelve steps, and the facts asked of it and of what it begins with: plumbing, and no outcome."""
    pocket, runs, jobs_of, full = small_pocket(tmp_path), tmp_path / "runs", strategies.jobs_of, Job.command
    tiny = command(pocket)[4:]
    monkeypatch.setattr(Job, "command", lambda job: [*full(job)[:-1], *tiny, full(job)[-1]])
    monkeypatch.setattr(
        strategies, "jobs_of", lambda *args, **only: [job for job in jobs_of(*args, **only) if job.system in SYSTEMS]
    )
    monkeypatch.setattr(scored, "POCKET", pocket)
    monkeypatch.setattr(strategies, "make", lambda _: None)
    monkeypatch.setattr(strategies, "keep", functools.partial(kept.keep, folder=tmp_path / "kept"))
    monkeypatch.setattr(gates, "MODEL", pocket / "model")
    monkeypatch.setattr(gates, "QUESTIONS", pocket / "facts.jsonl")
    monkeypatch.setattr(gates, "TUNED", (OURS,))
    asked = ["--seeds=1", f"--runs={runs}", "--jobs=2"]
    assert strategies.run(asked) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 runs are complete" in shown and "NOT EVIDENCE about decisions" in shown
    (tuned,) = runs.glob(f"{OURS}-seed0/predictions/facts-*.json")
    for when, file in (("pretraining", runs / "facts-pretrained.json"), ("fine-tuning", tuned)):
        recalled = json.loads(file.read_text())["recall"]
        assert row_of(shown, "Gates", f"facts recalled after {when}")[0] == f"{100 * recalled:.1f}"
    logged = metrics(runs / f"{OURS}-seed0")
    on_cot = sum(line["cot_share"] * line["posts"] for line in logged) / sum(line["posts"] for line in logged)
    assert 0 < on_cot < 1 and f"{100 * on_cot:.2f}%" in row_of(shown, "(Table 4)", "Dynamic CoT, γ 6.5")
    for system in SYSTEMS:
        (record,) = (tmp_path / "kept").glob(f"*/{system}-seed0.json")
        modes = json.loads(record.read_text())["modes"]["all"]
        assert {"direct", "think", "auto", "oracle"} <= modes.keys()
        assert modes["oracle"] >= max(modes["direct"], modes["think"])
    assert strategies.run([*asked[:-1], "--jobs=0"]) == 0 and "2 of 2 runs" in capsys.readouterr().out
