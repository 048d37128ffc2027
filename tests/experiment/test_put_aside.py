"""A run whose pocket was put aside by a newer version: it names the paths to go on with, and predicts from there."""

import pytest

from mmkp_jax.inference.load_model import load_model
from mmkp_jax.pocket.make import make_pocket, prepare_posts
from mmkp_jax.report import main as report
from mmkp_jax.runtime.aside import put_aside
from tests.support.small_pocket import SIZES, metrics, run_here, small_pocket

THREE = ("--config.total_steps=3", "--config.checkpoint_every=3")


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A run of three of six steps, and its pocket, which was put aside for another."""
    root = tmp_path_factory.mktemp("moved")
    pocket, workdir = small_pocket(root), root / "run"
    done = run_here(pocket, f"--workdir={workdir}", *THREE)
    assert done.returncode == 0, done.stderr[-2000:]
    aside = put_aside(pocket, 1, lambda: True)
    make_pocket(pocket, seed=1, sizes=SIZES)
    prepare_posts(pocket, SIZES)
    return pocket, aside, workdir


def test_its_model_is_opened_with_what_it_began_with(moved, capsys):
    pocket, aside, workdir = moved
    opened = load_model(str(workdir)).tokenizer.get_vocab()
    lines = capsys.readouterr().err.splitlines()
    assert lines.count(f"{workdir}: its model.path was put aside since, and is taken from {aside / 'model'}") == 1
    assert lines.count(f"{workdir}: its data.path was put aside since, and is taken from {aside / 'dataset'}") == 1
    assert opened == load_model(str(aside / "model")).tokenizer.get_vocab()
    assert opened != load_model(str(pocket / "model")).tokenizer.get_vocab()


def test_its_report_shows_the_posts_it_was_tested_on(moved, capsys, tmp_path):
    _, aside, workdir = moved
    assert report([str(workdir), f"--out={tmp_path / 'report.html'}"]) == 0
    said = capsys.readouterr().err
    assert f"{workdir}: its data.path was put aside since, and is taken from {aside / 'dataset'}" in said
    assert "are not those of the runs' predictions" not in (tmp_path / "report.html").read_text()


def test_it_says_which_paths_to_give_and_goes_on_with_them(moved):
    pocket, aside, workdir = moved
    again = (f"--workdir={workdir}", "--extend", "--config.total_steps=6", "--config.checkpoint_every=3")
    refused = run_here(pocket, *again)
    paths = {"data.path": "dataset", "data.kinds": "needs.jsonl", "model.path": "model"}
    flags = [f"--config.{field}={aside / name}" for field, name in paths.items()]
    assert refused.returncode == 2
    (line,) = refused.stderr.strip().splitlines()
    assert "what this run began with was put aside since" in line and all(flag in line for flag in flags), line
    done = run_here(pocket, *again, *flags)
    assert done.returncode == 0 and "resuming from step 3" in done.stdout, done.stderr[-2000:]
    assert len(metrics(workdir)) == 6
