"""Modes of complete runs: the real command for a run that was not trained, and tables where every answer is known."""

import json

import numpy as np
import pytest

from benchmarks.modes import modes_of, switches_of
from benchmarks.strategies import mode_jobs, show
from benchmarks.systems import OURS, jobs_of
from configs.zeroshot import get_config
from mmkp_jax.evaluation.switches import Switches
from mmkp_jax.pages.report.runs import read_runs
from mmkp_jax.predict import main as predict
from tests.support.finished_runs import POSTS, complete, row_of, write_modes
from tests.support.small_pocket import small_pocket


@pytest.fixture
def untrained(tmp_path):
    """A zero-shot run of a small pocket, with the predictions of its evaluation."""
    pocket, workdir = small_pocket(tmp_path), tmp_path / "zeroshot-seed0"
    (workdir / "predictions").mkdir(parents=True)
    config = get_config()
    config.model.path, config.data.path, config.answer_tokens = str(pocket / "model"), str(pocket / "dataset"), 6
    (workdir / "config.json").write_text(config.to_json())
    data = [f"--data={pocket / 'dataset'}", "--split=test", f"--out={workdir / 'predictions/test-0.jsonl'}"]
    assert predict([f"--model={workdir}", *data]) == 0
    return workdir, pocket / "dataset"


def test_a_run_is_predicted_in_both_modes_once(untrained, capsys):
    workdir, data = untrained
    (run,) = read_runs([workdir])
    job = modes_of(run, data)
    assert (job.name, job.complete) == ("zeroshot-seed0, direct and think", False)
    _python, _, command, *flags = job.command()
    assert command == "mmkp_jax.predict"
    assert predict(flags) == 0, capsys.readouterr().err
    assert job.complete
    for mode, file in job.files.items():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert {row["mode"] for row in rows} == {mode}
        assert all(row["output"].startswith("<think>") == (mode == "think") for row in rows if row["tokens"])
    whole = file.read_text()
    file.write_text(whole.rpartition("{")[0])
    assert not job.complete
    assert predict(flags) == 0 and job.complete and file.read_text() == whole
    assert modes_of(read_runs([workdir])[0], data).complete  # it is still the run


def test_the_weights_are_those_that_were_evaluated(tmp_path, dataset):
    job = next(job for job in jobs_of(1, tmp_path / "runs") if job.system == OURS)
    complete(job, right=True)
    assert [each.model for each in mode_jobs([job])] == [f"{job.workdir}@7"]
    (job.workdir / "best" / "7").mkdir(parents=True)
    (found,) = mode_jobs([job])
    assert found.model == f"{job.workdir}@best" and found.posts == len(POSTS)
    assert found.dataset == tmp_path / "dataset"


def test_tables_of_known_modes_and_switches(tmp_path, dataset, capsys):
    """Direct answers are right on the first half of the posts, chains on the second; the run answers directly."""
    jobs = [job for job in jobs_of(2, tmp_path / "runs") if job.system in ("zeroshot", "sft", OURS)]
    for job in jobs:
        complete(job, right=True)
    show(jobs)
    assert "\nModes\n" not in capsys.readouterr().out  # nothing is predicted yet
    ours = [job for job in jobs if job.system == OURS]
    for job in mode_jobs(ours):
        write_modes(job, direct_right=4)
    for job in ours:
        epoch_N, post_N = np.repeat([0, 1], 4), np.tile(np.arange(4), 2)
        on_cot_N = np.array([1, 0, 0, 0, 0, 1, 0, 0], np.int8)
        has_cot_N = np.tile([True, True, True, False], 2)
        arrays = dict(epoch_N=epoch_N, post_N=post_N, nll_sft_N=np.zeros(8, np.float32))
        arrays |= dict(on_cot_N=on_cot_N, has_cot_N=has_cot_N)
        np.savez(job.workdir / "losses.npz", **arrays)
    show(jobs)
    shown = capsys.readouterr().out
    row = row_of(shown, "\nModes\n", "Dynamic CoT, γ 0.4")
    assert row[:8] == ["all", "8", "50.00", "50.00", "100.00", "100.00", "+50.00", "(+12.50"]
    assert row[-8:] == ["50.0%", "100.0%", "50.0%", "0.0%", "–", "1.00", "2.00", "3.00"]
    assert row_of(shown, "Switches of Dynamic CoT\n", "Dynamic CoT, γ 0.4") == [
        "33",
        "33",
        "–",
        "67",
        "0.67",
        "33.3%",
        "0.0%",
    ]
    (run,) = read_runs([ours[0].workdir])
    found = switches_of(run)
    assert isinstance(found, Switches) and found.flips == 2 / 3
    del arrays["on_cot_N"]
    for unknown in ({"on_cot_N": np.where(epoch_N, on_cot_N, -1)}, {}):  # after a damage, and of an old run
        np.savez(ours[0].workdir / "losses.npz", **arrays, **unknown)
        assert switches_of(*read_runs([ours[0].workdir])) is None
