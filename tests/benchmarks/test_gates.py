"""The gates, on invented numbers: a comparison is called evidence only while every one of them holds."""

import json

import pytest

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
from mmkp_jax.hf.tensors import WEIGHTS
from mmkp_jax.pages.tables import as_text

GOOD = Measured(
    recall=0.97,
    recall_after=0.94,
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
    gates = gates_of(GOOD._replace(**{name: BAD[name]}))
    assert [gate.holds for gate in gates].count(False) == 1
    assert verdict(gates).startswith("NOT EVIDENCE about decisions: 1 of 7 gates fail")
    assert "FAILS" in as_text(gates_table(gates))


@pytest.mark.parametrize("name", Measured._fields)
def test_what_is_not_measured_refuses_it_too(name):
    gates = gates_of(GOOD._replace(**{name: None}))
    assert verdict(gates).startswith("NOT EVIDENCE")
    assert "not known" in as_text(gates_table(gates)) and "FAILS" not in as_text(gates_table(gates))


def test_without_runs_nothing_is_known(tmp_path):
    assert measure(tmp_path, {}) == Measured()
    assert len(recall_jobs(tmp_path, {})) == 1
    assert "NOT EVIDENCE about decisions: 7 of 7" in text_of("", tmp_path, {})
    assert "NOT EVIDENCE about decisions: 7 of 7" in text_of("mesh=one_device,model=pocket", tmp_path, {})
    assert text_of("model=pocket_llama3_2", tmp_path, {}) == WITHOUT
    assert text_of("model=qwen2_5_vl_3b,data=mmkp_v2", tmp_path, {}) == ""


def test_a_job_about_facts_is_complete_with_its_file(tmp_path):
    job = RecallJob("model", tmp_path / "facts.json", tmp_path / "facts.jsonl")
    assert not job.complete
    job.questions.write_text("four")
    found = {"weights": None, "questions": digest_of(job.questions), "recall": 0.25, "known": [True] + [False] * 3}
    job.file.write_text(json.dumps(found))
    assert job.complete and recall_of(job) == 0.25
    job.questions.write_text("four others")
    assert not job.complete
    assert job.command()[1:3] == ["-m", "benchmarks.recall"]


def test_what_other_weights_knew_is_asked_again(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / WEIGHTS).write_bytes(b"weights")
    job = RecallJob(str(tmp_path / "model"), tmp_path / "facts.json", tmp_path / "facts.jsonl")
    job.questions.write_text("one")
    for digest, complete in (("of others", False), (weights_of(job.model), True)):
        job.file.write_text(
            json.dumps({"weights": digest, "questions": digest_of(job.questions), "recall": 1.0, "known": [True]})
        )
        assert job.complete is complete
