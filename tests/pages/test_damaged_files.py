"""Damaged files that report, score or predict reads: each fault is one line that names it, and exit 2."""

import copy
import json
import shutil

import numpy as np
import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.metric import score
from mmkp_jax.inference.resumable_predictions import ResumablePredictions
from mmkp_jax.pages.report.runs import read_runs
from mmkp_jax.report import main as report
from mmkp_jax.score import main as score_main
from tests.pages.test_report import ANSWERS, TEST, posts_of, write_run

DEEP = "DEEP"
WRONG = [None, True, -1, 1.5, 10**400, float("inf"), float("nan"), "x", "\ud800", [], [1], {}, {"a": [None]}, DEEP]
"""Values of every type, one of which is wrong wherever it is put."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with every file that a report reads; its dataset is missing."""
    root = tmp_path_factory.mktemp("damaged")
    run = write_run(root / "run", root / "gone", "dyncot", steps=3)
    scores = score(posts_of("test", TEST), ANSWERS["dyncot"], {"snow"})
    (run / "results.json").write_text(json.dumps(scores | {"forms": {"cot": 1.0}}))
    (run / "comparisons.json").write_text(json.dumps({"scores": {"a": scores}, "by_kind": {"a": {"image": None}}}))
    np.savez(run / "losses.npz", epoch_N=[0, 1], post_N=[0, 0], nll_sft_N=[0.5, 0.25])
    ids = np.array([f"test-{n}" for n in range(1, 5)])
    np.savez(run / "hidden.npz", id_N=ids, hidden_ND=np.eye(4, 3, dtype=np.float16))
    return run


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def changed(content):
    """Yields copies of a JSON value, each with one of `WRONG` in one place, then with one place taken out."""
    for path in paths(content):
        for value in [*WRONG, KeyError]:
            made = copy.deepcopy(content)
            at = made
            for name in path[:-1]:
                at = at[name]
            if value is KeyError:
                del at[path[-1]]
            else:
                at[path[-1]] = value
            yield json.dumps(made).replace(f'"{DEEP}"', "[" * 500 + "]" * 500)


def paths(content, above=()):
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in inside:
        yield (*above, name)
        yield from paths(value, (*above, name))


def fault_of(run, capsys):
    """The report's message about a damaged run; None if the run can be read."""
    try:
        read_runs([run])
    except InputError:
        status = report([str(run), f"--out={run / 'page.html'}"])
        output = capsys.readouterr()
        assert status == 2 and output.out == "" and output.err.count("\n") == 1 and not (run / "page.html").exists()
        return output.err
    assert report([str(run), f"--out={run / 'page.html'}"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    (run / "page.html").unlink()
    return None


@pytest.mark.parametrize("name", ["config.json", "environment.json", "results.json", "comparisons.json"])
def test_one_value_of_another_type_in_a_json_file_of_a_run(run, name, capsys, monkeypatch):
    monkeypatch.setattr("mmkp_jax.evaluation.significance.RESAMPLES", 100)
    content = json.loads((run / name).read_text())
    faults = 0
    for text in changed(content):
        (run / name).write_text(text)
        if fault := fault_of(run, capsys):
            assert fault.startswith(f"{run / name}: "), (text[:300], fault)
            faults += 1
    assert faults > 20


@pytest.mark.parametrize("name", ["metrics.jsonl", "predictions/test-3.jsonl"])
def test_one_value_of_another_type_in_a_line_of_a_run(run, name, capsys):
    lines = (run / name).read_text().splitlines()
    faults = 0
    for text in changed(json.loads(lines[1])):
        (run / name).write_text("\n".join([lines[0], text, *lines[2:]]) + "\n")
        if fault := fault_of(run, capsys):
            faults += fault.startswith(f"{run / name}:2: ")
            assert fault.startswith((f"{run / name}:", f"{run}: ")), fault  # of another id or keyphrases: the run
    assert faults > 20


@pytest.mark.parametrize("name", ["config.json", "environment.json", "results.json", "comparisons.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "5", '"x"', "null", "\ud800", "[" * 100_000, '{"a": 1e999', "\x00"])
def test_a_json_file_of_a_run_that_is_cut_or_something_else(run, name, text, capsys):
    (run / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    assert fault_of(run, capsys).startswith(f"{run / name}")


@pytest.mark.parametrize("text", ["{", "[]", "5", "[" * 100_000, "\x00\x00"])
def test_a_line_that_is_not_an_object_is_reported_and_a_last_one_that_was_cut_is_ignored(run, text, capsys):
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], text, lines[1]]) + "\n")
    assert fault_of(run, capsys).startswith(f"{file}:2: ")
    file.write_text("\n".join([*lines, text]))
    assert fault_of(run, capsys) is None


@pytest.mark.parametrize("name", ["losses", "hidden"])
@pytest.mark.parametrize("damage", ["cut", "text", "pickle", "shape", "type", "names", "nothing", "flipped", "lengths"])
def test_damaged_arrays_of_a_run_are_one_line(run, name, damage, capsys):
    file = run / f"{name}.npz"
    with np.load(file) as stored:
        arrays = dict(stored)
    data, key = bytearray(file.read_bytes()), list(arrays)[-1]
    if damage == "flipped":
        data[data.index(b"descr") + 10] ^= 255
    changes = {
        "pickle": {key: np.array([{}] * len(arrays[key]), object)},
        "shape": {key: arrays[key].reshape(-1, 1, 1)},
        "type": {key: arrays[key].astype(str)},
        "lengths": {key: arrays[key][:1]},
    }
    if damage == "names":
        np.savez(file, other=arrays[key])
    elif damage in changes:
        np.savez(file, **arrays | changes[damage])
    else:
        file.write_bytes({"cut": data[: len(data) // 2], "text": b"no zip", "nothing": b""}.get(damage, bytes(data)))
    assert fault_of(run, capsys).startswith(f"{file}: ")


def test_arrays_that_unpack_to_more_than_the_limit_are_refused_before_they_are_unpacked(run, monkeypatch, capsys):
    monkeypatch.setenv("MMKP_MAX_FILE_BYTES", "100000")
    np.savez_compressed(run / "losses.npz", epoch_N=np.zeros(10**5, int), post_N=[0], nll_sft_N=[0.5])
    assert "MMKP_MAX_FILE_BYTES" in fault_of(run, capsys)


POST = {"id": "a", "text": "a dog in the park", "image": None, "keyphrases": ["dogs"], "cot": None}
PREDICTION = {"id": "a", "keyphrases": ["dogs"], "predicted": ["dog"], "output": "dog", "form": "direct", "tokens": 2}


@pytest.mark.parametrize("reading", ["strict", "lenient"])
def test_one_value_of_another_type_in_predictions_that_are_scored(tmp_path, capsys, reading):
    posts, file = tmp_path / "posts.jsonl", tmp_path / "p.jsonl"
    posts.write_text(json.dumps(POST))
    faults = 0
    for text in changed(PREDICTION | {"outputs": ["dog", "cat"]}):
        file.write_text(text + "\n")
        status = score_main([f"--predictions={file}", f"--posts={posts}", f"--reading={reading}", "--resamples=0"])
        error = capsys.readouterr().err
        assert status in (0, 2) and error.count("\n") == status // 2 and error.startswith(str(file) if status else "")
        faults += status == 2
    assert faults > 20


def test_one_value_of_another_type_in_the_file_that_predict_resumes(tmp_path):
    file = tmp_path / "p.jsonl"
    faults = 0
    for text in [*changed(PREDICTION), "[]", "{", "[" * 100_000, "\x00"]:
        file.write_text(json.dumps(PREDICTION | {"id": "b"}) + "\n" + text + "\n")
        try:
            found = ResumablePredictions(file, ["a", "b"]).found
        except InputError as error:
            assert str(error).startswith(f"{file}:2: "), error
            faults += 1
        else:
            assert set(found) == {0, 1}
            found[0].line().encode()
    assert faults > 40
