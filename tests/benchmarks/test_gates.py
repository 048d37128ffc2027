"""The gates, on invented numbers: a comparison is called evidence only while every one of them holds."""

import json

import pytest

from benchmarks import gates
from benchmarks.gates import (
    WITHOUT,
    Measured,
    RecallJob,
    gates_of,
    gates_table,
    measure,
    recall_jobs,
    recall_of,
    text_of,
    verdict,
)
from benchmarks.recall import digest_of, weights_of
from benchmarks.scored import read_results
from benchmarks.strategies import mode_jobs
from benchmarks.systems import BY_STRATEGY, OURS, jobs_of
from mmkp_jax.hf.tensors import WEIGHTS
from mmkp_jax.pages.tables import as_text
from tests.support.finished_runs import complete, write_kinds, write_modes

GOOD = Measured(
    recall=0.97,
    recall_after=0.94,
    cot_recall=0.96,
    zeroshot=0.1,
    sft_unseen=0.02,
    cot_unseen=0.84,
    sft_habit=0.9,
    cot_habit=0.5,
    oracle_gain=0.08,
)

BAD = {
    "recall": 0.94,
    "recall_after": 0.89,
    "zeroshot": 0.0,
    "sft_unseen": 0.2,
    "cot_unseen": 0.5,
    "sft_habit": 0.54,
    "oracle_gain": 0.03,
}


def test_every_gate_holds():
    assert all(gate.holds for gate in gates_of(GOOD))
    assert "NOT EVIDENCE" not in verdict(gates_of(GOOD))


@pytest.mark.parametrize("name", BAD)
def test_one_number_that_fails_refuses_the_comparison(name):
    found = gates_of(GOOD._replace(**{name: BAD[name]}))
    assert [gate.holds for gate in found].count(False) == 1
    assert verdict(found).startswith("NOT EVIDENCE about decisions: 1 of 7 gates fail")
    assert "FAILS" in as_text(gates_table(found))


@pytest.mark.parametrize("name", Measured._fields)
def test_what_is_not_measured_refuses_it_too(name):
    found = gates_of(GOOD._replace(**{name: None}))
    assert verdict(found).startswith("NOT EVIDENCE")
    assert "not known" in as_text(gates_table(found)) and "FAILS" not in as_text(gates_table(found))


def test_without_runs_nothing_is_known(tmp_path):
    assert measure(tmp_path, {}) == Measured()
    assert len(recall_jobs(tmp_path, {})) == 1
    assert "NOT EVIDENCE about decisions: 7 of 7" in text_of("", tmp_path, {})
    assert "NOT EVIDENCE about decisions: 7 of 7" in text_of("mesh=one_device,model=pocket", tmp_path, {})
    assert text_of("model=pocket_llama3_2", tmp_path, {}) == WITHOUT
    assert text_of("model=qwen2_5_vl_3b,data=mmkp_v2", tmp_path, {}) == ""


def test_each_number_comes_from_its_own_runs(tmp_path, dataset, monkeypatch):
    """Two seeds; every number is another, and the second seed's facts and kinds are not the first's."""
    monkeypatch.setattr(gates, "MODEL", tmp_path / "model")
    monkeypatch.setattr(gates, "QUESTIONS", tmp_path / "facts.jsonl")
    gates.QUESTIONS.write_text("one")
    jobs = [job for job in jobs_of(2, tmp_path / "runs") if job.system in BY_STRATEGY]
    kinds = {"sft": (0.01, 0.9), "cot": (0.8, 0.5), "multitask": (0.3, 0.7), OURS: (0.4, 0.6)}
    for job in jobs:
        complete(job, right=job.system == "zeroshot")
        if job.system in kinds:
            unseen, habit = kinds[job.system]
            write_kinds(job, {"unseen_fact": unseen + 0.02 * job.seed, "habit": habit - 0.04 * job.seed})
    for job in mode_jobs([job for job in jobs if job.system == "multitask"]):
        write_modes(job, direct_right=6)  # of eight, so the oracle is right on two more
    results = read_results(BY_STRATEGY, jobs)
    facts = recall_jobs(tmp_path, results)
    assert len(facts) == 1 + 4 * 2 and not measure(tmp_path, results).recall_after
    known = {"facts-pretrained": 0.99, "sft-seed0": 0.91, "sft-seed1": 0.95, "cot-seed0": 0.97, "cot-seed1": 0.96}
    for job in facts:
        name = job.file.stem if job.file.parent == tmp_path else job.file.parent.parent.name
        asked = {"weights": None, "questions": digest_of(job.questions), "known": []}
        job.file.write_text(json.dumps(asked | {"recall": known.get(name, 0.98)}))
    found = measure(tmp_path, results)
    assert found == pytest.approx(
        Measured(
            recall=0.99,
            recall_after=0.91,
            cot_recall=0.96,
            zeroshot=1.0,
            sft_unseen=0.02,
            cot_unseen=0.81,
            sft_habit=0.88,
            cot_habit=0.48,
            oracle_gain=0.25,
        )
    )
    facts[1].file.unlink()
    assert measure(tmp_path, results).recall_after is None and measure(tmp_path, results).cot_recall == 0.96


def test_a_job_about_facts_is_complete_with_its_file(tmp_path):
    job = RecallJob("model", tmp_path / "facts.json", tmp_path / "facts.jsonl")
    assert not job.complete
    job.questions.write_text("four")
    found = {"weights": None, "questions": digest_of(job.questions), "recall": 0.25, "known": [True] + [False] * 3}
    job.file.write_text(json.dumps(found))
    assert job.complete and recall_of(job) == 0.25
    for damaged in ("{", "[]", '{"recall": "x"}'):  # it is asked again
        job.file.write_text(damaged)
        assert not job.complete
    job.file.write_text(json.dumps(found))
    job.questions.write_text("four others")
    assert not job.complete
    assert job.command()[1:3] == ["-m", "benchmarks.recall"]


def test_what_other_weights_knew_is_asked_again(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / WEIGHTS).write_bytes(b"weights")
    job = RecallJob(str(tmp_path / "model"), tmp_path / "facts.json", tmp_path / "facts.jsonl")
    job.questions.write_text("one")
    for digest, is_complete in (("of others", False), (weights_of(job.model), True)):
        job.file.write_text(
            json.dumps({"weights": digest, "questions": digest_of(job.questions), "recall": 1.0, "known": [True]})
        )
        assert job.complete is is_complete
