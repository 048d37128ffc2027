"""A baseline through the main command: its files, its end, and a run that was killed between two epochs."""

import json
import shutil

import pytest

from mmkp_jax import export, main, predict, serve
from mmkp_jax.pocket.make import make_pocket, prepare_posts
from mmkp_jax.runtime.aside import put_aside
from tests.support.small_pocket import SIZES, metrics, small_pocket, unfinished

FIELDS = {
    **{"make": "", "data.kinds": "", "ablations": False, "valid_posts": 4, "num_epochs": 2, "joint_epochs": 1},
    **{"embedding_width": 8, "hidden_width": 8, "batch_size": 8, "beam_size": 3, "eval_batch_size": 8, "patience": 0},
}
RESULTS = ("loss", "loss_class", "loss_generation", "grad_norm", "learning_rate")


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    return small_pocket(tmp_path_factory.mktemp("pocket"))


def flags_of(pocket, workdir):
    fields = {**FIELDS, "data.path": pocket / "dataset"}
    return ["--config=cmkp", f"--workdir={workdir}", *(f"--config.{name}={it}" for name, it in fields.items())]


@pytest.fixture(scope="module")
def finished(pocket):
    workdir = pocket.parent / "run"
    assert main.main(flags_of(pocket, workdir)) == 0
    return workdir


def curve(workdir):
    return [[line["step"], *(line.get(name) for name in RESULTS)] for line in metrics(workdir)]


def test_it_ends_with_scores_a_report_and_what_to_do_next_and_does_nothing_again(pocket, finished, capsys):
    assert json.loads((finished / "results.json").read_text())["all"]["n"] == 6
    assert "cmkp" in (finished / "report.html").read_text()
    files = {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.is_file()}
    assert main.main(flags_of(pocket, finished)) == 0
    printed = capsys.readouterr().out
    assert "this run has finished" in printed and "try it:" in printed and "mmkp_jax.export" not in printed
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.is_file()} == files


def test_a_run_that_was_killed_after_an_epoch_is_bit_identical_to_an_unbroken_one(pocket, finished, tmp_path):
    workdir = unfinished(finished, tmp_path / "run")
    last = max(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdecimal())
    shutil.rmtree(workdir / "checkpoints" / str(last))
    (workdir / "results.json").unlink()
    assert main.main(flags_of(pocket, workdir)) == 0
    assert curve(workdir) == curve(finished)
    assert (workdir / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_a_run_whose_posts_were_put_aside_says_which_path_to_give(pocket, finished, tmp_path, capsys):
    workdir, moved = unfinished(finished, tmp_path / "run"), shutil.copytree(pocket, tmp_path / "pocket")
    aside = put_aside(moved, 1, lambda: True)
    make_pocket(moved, seed=1, sizes=SIZES)
    prepare_posts(moved, SIZES)
    assert main.main(flags_of(moved, workdir)) == 2
    line = capsys.readouterr().err.strip()
    assert "put aside since (data.path)" in line and f"give --config.data.path={aside / 'dataset'}" in line
    assert main.main(flags_of(aside, workdir)) == 0


def test_predict_gives_the_runs_own_predictions(pocket, finished, tmp_path):
    out = tmp_path / "again.jsonl"
    assert (
        predict.main([f"--model={finished}@best", f"--data={pocket / 'dataset'}", "--split=test", f"--out={out}"]) == 0
    )
    (file,) = (finished / "predictions").iterdir()
    again, own = ([json.loads(line)["predicted"] for line in each.read_text().splitlines()] for each in (out, file))
    assert again == own


def test_what_needs_a_model_that_exports_refuses_a_baseline_in_a_line(finished, capsys, tmp_path):
    for command, flags in (
        (export, [f"--workdir={finished}", f"--out={tmp_path / 'out'}"]),
        (serve, [f"--model={finished}"]),
    ):
        assert command.main(flags) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert "baseline" in line


def test_fields_of_another_strategy_are_said_to_have_no_effect(pocket, tmp_path, capsys):
    flags = ["--config=one2seq", f"--workdir={tmp_path / 'run'}", "--config.make=", "--config.data.kinds="]
    flags += [f"--config.data.path={pocket / 'dataset'}", "--config.num_epochs=1", "--config.ablations=False"]
    flags += ["--config.embedding_width=8", "--config.hidden_width=8", "--config.beam_size=2", "--config.valid_posts=2"]
    assert main.main([*flags, "--config.generation_weight=2.0", "--config.neighbours=3"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert [note.split("=")[0] for note in notes] == ["note: generation_weight", "note: neighbours"]


@pytest.mark.nightly
def test_a_models_tower_gives_a_runs_image_features_and_predicts_with_them(pocket, tmp_path):
    workdir, out = tmp_path / "run", tmp_path / "again.jsonl"
    flags = [*flags_of(pocket, workdir), f"--config.data.image_features={pocket / 'model'}", "--config.num_epochs=1"]
    assert main.main(flags) == 0
    assert len(list((workdir / "image_features").rglob("*.features"))) > 40  # of train, valid and test
    assert (
        predict.main([f"--model={workdir}@best", f"--data={pocket / 'dataset'}", "--split=test", f"--out={out}"]) == 0
    )
    (file,) = (workdir / "predictions").iterdir()
    again, own = ([json.loads(line)["predicted"] for line in each.read_text().splitlines()] for each in (out, file))
    assert again == own
