"""What is kept of runs: a record a run, in a folder named by what they share."""

import json

import pytest

from benchmarks.kept import KEPT, OWN, bed_of, keep, kept_tables
from benchmarks.scored import read_results
from benchmarks.systems import BY_STRATEGY, OURS, jobs_of
from mmkp_jax.errors import InputError
from mmkp_jax.pages.report.runs import read_runs
from mmkp_jax.pages.tables import as_text
from mmkp_jax.runtime.fields import FIELDS
from tests.support.finished_runs import complete, row_of


@pytest.fixture
def jobs(tmp_path, dataset):
    """Complete runs of two seeds, all right but SFT's second."""
    jobs = [job for job in jobs_of(2, tmp_path / "runs") if job.system in BY_STRATEGY]
    for job in jobs:
        complete(job, right=(job.system, job.seed) != ("sft", 1))
    return jobs


def test_a_record_a_run_and_a_row_a_system(tmp_path, jobs):
    results = read_results(BY_STRATEGY, jobs)
    bed = keep(results, tmp_path / "kept")
    assert {file.stem for file in bed.iterdir()} == {job.workdir.name for job in jobs}
    record = json.loads((bed / f"{OURS}-seed1.json").read_text())
    assert (record["system"], record["seed"], record["step"]) == (OURS, 1, 7)
    assert record["config"]["strategy"] == "dyncot" and record["test"]["all"]["f1@1"] == 1.0
    assert record["modes"] is None  # nothing is predicted with each mode
    (table,) = kept_tables(results, tmp_path / "kept")
    shown = as_text(table)
    assert row_of(shown, "Kept", "sft")[:4] == ["2", "50.00", "±", "70.71"]
    assert row_of(shown, "Kept", "zeroshot")[:2] == ["1", "100.00"]


def test_runs_that_are_gone_stay_in_the_table(tmp_path, jobs):
    keep(read_results(BY_STRATEGY, jobs), tmp_path / "kept")
    only_first = read_results(BY_STRATEGY, [job for job in jobs if job.seed == 0])
    bed = keep(only_first, tmp_path / "kept")
    assert len(list(bed.iterdir())) == len(jobs)
    (table,) = kept_tables(only_first, tmp_path / "kept")
    assert row_of(as_text(table), "Kept", "sft")[0] == "2"


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
    assert keep({}, tmp_path) is None and kept_tables({}, tmp_path) == []


def test_what_is_in_the_repository_reads():
    for bed in filter(lambda folder: folder.is_dir(), KEPT.glob("*")):
        for file in bed.glob("*.json"):
            record = json.loads(file.read_text())
            assert file.stem == f"{record['system']}-seed{record['seed']}"
            assert 0 <= record["test"]["all"]["f1@1"] <= 1
