"""What is kept of runs: a record a run, in a folder named by what they share."""

import json
import shutil

import pytest

from benchmarks.kept import KEPT, OWN, bed_of, keep, kept_tables
from benchmarks.scored import read_results
from benchmarks.strategies import mode_jobs
from benchmarks.systems import BY_STRATEGY, OURS, jobs_of
from mmkp_jax.errors import InputError
from mmkp_jax.pages.report.runs import read_runs
from mmkp_jax.pages.tables import as_text
from mmkp_jax.runtime.fields import FIELDS
from tests.support.finished_runs import complete, row_of, write_modes


@pytest.fixture
def jobs(tmp_path, dataset):
    """Complete runs of two seeds, all right but SFT's second."""
    jobs = [job for job in jobs_of(2, tmp_path / "runs") if job.system in BY_STRATEGY]
    for job in jobs:
        complete(job, right=(job.system, job.seed) != ("sft", 1))
    return jobs


def test_a_record_a_run(tmp_path, jobs):
    results = read_results(BY_STRATEGY, jobs)
    bed = keep(results, tmp_path / "kept")
    assert {file.stem for file in bed.iterdir()} == {job.workdir.name for job in jobs}
    record = json.loads((bed / f"{OURS}-seed1.json").read_text())
    assert (record["system"], record["seed"], record["step"]) == (OURS, 1, 7)
    assert record["config"]["strategy"] == "dyncot" and record["test"]["all"]["f1@1"] == 1.0
    assert record["modes"] is None  # nothing is predicted with each mode
    assert record["answers"] == {"auto": [["a dog"], ["a cat"]] * 4}
    assert record["trained_on"] == {"posts": 14, "labels": 3500} and record["words"] == 3.0
    assert record["quarters"] == {"cot_share": [0.25] * 4}
    assert json.loads((bed / "sft-seed1.json").read_text())["answers"] == {"auto": [[]] * 8}
    assert kept_tables(results, tmp_path / "dataset", tmp_path / "kept") == []  # their own tables say it


def test_runs_that_are_gone_are_compared_by_their_answers(tmp_path, jobs):
    keep(read_results(BY_STRATEGY, jobs), tmp_path / "kept")
    gone = [job for job in jobs if job.seed == 1]
    here = read_results(BY_STRATEGY, [job for job in jobs if job not in gone])
    bed = keep(here, tmp_path / "kept")
    assert len(list(bed.iterdir())) == len(jobs)
    for results in (here, {}):
        kept, differences = map(as_text, kept_tables(results, tmp_path / "dataset", tmp_path / "kept"))
        assert row_of(kept, "Kept", "sft")[:4] == ["2", "50.00", "±", "70.71"]
        assert row_of(kept, "Kept", "zeroshot")[:2] == ["1", "100.00"]
        assert row_of(differences, "Differences", "sft")[:5] == ["all", "+50.00", "+0.00", "to", "+100.00"]
    local = read_results(BY_STRATEGY, jobs)["sft"].reference_minus_this["all"]["f1@1"]
    assert row_of(differences, "Differences", "sft")[5] == f"{local.p:.4f}"


def test_answers_in_each_mode_stay(tmp_path, jobs):
    ours = [job for job in jobs if job.system == OURS]
    for job in mode_jobs(ours):
        write_modes(job, direct_right=6)
    bed = keep(read_results(BY_STRATEGY, jobs), tmp_path / "kept")
    record = (bed / f"{OURS}-seed0.json").read_text()
    modes = json.loads(record)["modes"]["all"]
    assert (modes["direct"], modes["think"], modes["auto"], modes["oracle"]) == (0.75, 0.25, 1.0, 1.0)
    assert (modes["n"], modes["differ"], modes["right"], modes["thinks"]) == (8, 1.0, 0.75, 0.0)
    assert modes["words"] == {"auto": 3.0, "direct": 1.0, "think": 2.0}
    assert json.loads(record)["answers"]["think"][5:] == [["no"], ["a dog"], ["a cat"]]
    for file in [file for job in mode_jobs(ours) for file in job.files.values()]:
        file.unlink()
    keep(read_results(BY_STRATEGY, jobs), tmp_path / "kept")
    assert (bed / f"{OURS}-seed0.json").read_text() == record


def test_a_damaged_record_is_named(tmp_path, jobs):
    bed = keep(read_results(BY_STRATEGY, jobs), tmp_path / "kept")
    file = bed / "sft-seed1.json"
    whole = json.loads(file.read_text())
    for damaged in (
        {"system": 3},
        {"answers": {"auto": "a dog"}},
        {"answers": {"auto": [["a dog"]]}},
        {"test": {"all": {"f1@1": None}}},
        None,
    ):
        file.write_text("{" if damaged is None else json.dumps(whole | damaged))
        with pytest.raises(InputError, match="restore it from git") as caught:
            kept_tables({}, tmp_path / "dataset", tmp_path / "kept")
        assert "sft-seed1" in str(caught.value)


def test_another_score_in_the_place_of_one_is_said(tmp_path, jobs, capsys):
    keep(read_results(BY_STRATEGY, jobs), tmp_path / "kept")
    keep(read_results(BY_STRATEGY, jobs), tmp_path / "kept")
    assert capsys.readouterr().out == ""
    again = next(job for job in jobs if (job.system, job.seed) == ("sft", 1))
    shutil.rmtree(again.workdir)
    complete(again, right=True)
    keep(read_results(BY_STRATEGY, jobs), tmp_path / "kept")
    (line,) = capsys.readouterr().out.splitlines()
    assert "sft-seed1.json: F1@1 was 0.00" in line and "is 100.00" in line


def test_a_bed_is_named_by_what_its_runs_share(tmp_path, jobs):
    runs = read_runs([job.workdir for job in jobs])
    assert len({bed_of(run) for run in runs}) == 1
    first = runs[0].config
    longer = runs[0].__class__(**{**vars(runs[0]), "config": {**first, "num_epochs": first["num_epochs"] + 1}})
    assert bed_of(longer) != bed_of(runs[0])
    before = bed_of(runs[0])
    (jobs[0].workdir / "contents.json").write_text('{"model.path": "another student", "data.path": "the posts"}')
    assert bed_of(runs[0]) != before
    with pytest.raises(InputError, match="differ in more than their systems"):
        keep(read_results(BY_STRATEGY, jobs), tmp_path / "kept")
    assert set(OWN) <= {field.name for field in FIELDS}


def test_without_runs_nothing_is_kept(tmp_path):
    assert keep({}, tmp_path) is None


def test_what_is_in_the_repository_reads():
    for bed in filter(lambda folder: folder.is_dir(), KEPT.glob("*")):
        for file in bed.glob("*.json"):
            record = json.loads(file.read_text())
            assert file.stem == f"{record['system']}-seed{record['seed']}"
            assert 0 <= record["test"]["all"]["f1@1"] <= 1
