"""Trackers get each step once, whatever fails or is killed, and never cost a run; their files are read back offline."""

import json
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from mmkp_jax.runtime import installed
from mmkp_jax.runtime.config import default_config
from mmkp_jax.runtime.fields import field_named
from mmkp_jax.training import trackers
from mmkp_jax.training.trackers.reporting import Sent, Trackers
from mmkp_jax.training.workdir import MetricsLog
from tests.support.small_pocket import run_here, small_pocket
from tests.support.tracked import READ

CONFIG = {"strategy": "dyncot", "row": {"tokens": 2048}, "freeze": ("tower",)}
RESULTS = {"all": {"n": 7, "f1@1": 0.25}, "present": None, "forms": {"direct": 1.0}}


def write_results(workdir: Path) -> None:
    (workdir / "results.json").write_text(json.dumps(RESULTS))
    (workdir / "report.html").write_text("<p>a page</p>")
    (workdir / "config.json").write_text(json.dumps(CONFIG))


def report(workdir: Path, name: str, resumed_at: int, steps: range, finish: int | None = None) -> None:
    """One start of a run, which resumes after a step and logs others."""
    with Trackers([name], workdir) as trackers:
        trackers.start(CONFIG)
        log = MetricsLog(workdir, resumed_at, trackers)
        for step in steps:
            log.write(step, {"loss": 1 / step, "valid/all/f1@1": step / 8, "mfu": None})
        log.close()
        if finish:
            trackers.summarise(finish)


@pytest.fixture
def no_network(monkeypatch):
    """Fails on every look-up of a name and every connection off this machine."""
    connect = socket.socket.connect

    def local(self, address):
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), address
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    for variable in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("name", READ)
def test_a_run_that_was_killed_and_resumed_is_one_run_with_each_step_once(tmp_path, no_network, name, capsys):
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install -e '.[{name}]'")
    write_results(tmp_path)
    report(tmp_path, name, 0, range(1, 4))
    report(tmp_path, name, 2, range(3, 6), finish=5)  # step 3 again
    report(tmp_path, name, 5, range(0), finish=5)  # and the summary
    run = (tmp_path / "trackers" / f"{name}.txt").read_text().split()[0]
    found = READ[name](tmp_path / "trackers" / name, run)
    f1 = "valid/all/f1_at_1" if name == "mlflow" else "valid/all/f1@1"
    curves = {point: count for point, count in found.points.items() if not point[0].startswith("test/")}
    assert curves == {
        **{("loss", step, 1 / step): 1 for step in range(1, 6)},
        **{(f1, step, step / 8): 1 for step in range(1, 6)},
    }
    assert str(found.config["row.tokens"]) == "2048" and found.config["strategy"] == "dyncot"
    assert found.summary["test/all/f1@1"] == 0.25 and "test/present" not in found.summary
    assert {"config.json", "results.json", "report.html"} <= found.artifacts
    assert "is left out" not in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.parametrize("name", READ)
def test_the_main_command_reports_a_run_and_its_continuation(tmp_path, no_network, name):
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install -e '.[{name}]'")
    pocket, workdir = small_pocket(tmp_path), tmp_path / "run"
    for flags in (["--config.total_steps=2"], ["--config.total_steps=4", "--extend"]):
        done = run_here(pocket, f"--workdir={workdir}", f"--config.report_to={name}", *flags)
        assert done.returncode == 0 and "is left out" not in done.stderr, done.stderr
    found = READ[name](workdir / "trackers" / name, (workdir / f"trackers/{name}.txt").read_text().split()[0])
    losses = [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    points = {point: count for point, count in found.points.items() if point[0] == "loss"}
    assert points == {("loss", step, loss): 1 for step, loss in enumerate(losses, start=1)}
    results = json.loads((workdir / "results.json").read_text())
    assert found.summary["test/all/f1@1"] == results["all"]["f1@1"]
    files = {"config.json", "environment.json", "results.json", "results.txt", "report.html"}
    assert files <= found.artifacts


class Recorder:
    """A tracker in memory, which can fail."""

    def __init__(self):
        self.steps, self.closed, self.fails = [], [], False

    def begin(self, run):
        self.run = run
        return self

    def log(self, step, values):
        if self.fails:
            raise OSError("the disk is\nfull")
        self.steps.append((step, values))

    def summarise(self, step, scores, files):
        self.scores, self.files = scores, files

    def close(self, *, is_complete):
        self.closed.append(is_complete)


@pytest.fixture
def recorder(monkeypatch):
    tracker, module = Recorder(), ModuleType("recorder")
    module.begin = tracker.begin
    monkeypatch.setitem(sys.modules, "mmkp_jax.training.trackers.recorder", module)
    return tracker


def test_a_tracker_that_fails_costs_one_line_and_the_next_start_sends_what_it_lacks(tmp_path, recorder, capsys):
    with Trackers(["recorder"], tmp_path) as trackers:
        trackers.start(CONFIG)
        log = MetricsLog(tmp_path, 0, trackers)
        for step in range(1, 6):
            recorder.fails = step >= 3
            log.write(step, {"loss": float(step)})
        log.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("recorder is left out from here on (OSError: the disk is full); the run continues")
    assert [step for step, _ in recorder.steps] == [1, 2] and recorder.closed == []
    assert trackers.lost == {"recorder"}  # so that the run does not count as finished
    recorder.fails = False
    report(tmp_path, "recorder", 4, range(5, 7))
    assert [(step, values["loss"]) for step, values in recorder.steps] == [
        *[(step, float(step)) for step in range(1, 5)],
        *[(step, 1 / step) for step in (5, 6)],
    ]


def test_a_tracker_that_is_named_later_gets_the_run_from_its_start(tmp_path, recorder):
    with Trackers([], tmp_path) as trackers:
        trackers.start(CONFIG)
        log = MetricsLog(tmp_path, 0, trackers)
        log.write(1, {"loss": 2.0, "mfu": None})
        log.close()
    assert not (tmp_path / "trackers").exists()
    report(tmp_path, "recorder", 1, range(2, 3))
    assert recorder.steps == [(1, {"loss": 2.0}), (2, {"loss": 0.5, "valid/all/f1@1": 0.25})]
    assert recorder.run.config["row.tokens"] == 2048 and recorder.run.name == tmp_path.name


def test_a_tracker_that_does_not_begin_is_left_out(tmp_path, capsys):
    report(tmp_path, "no_such_tracker", 0, range(1, 2))
    assert "no_such_tracker is left out from here on (ModuleNotFoundError: " in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").exists()


def test_a_run_is_complete_for_a_tracker_when_its_scores_are_sent(tmp_path, recorder):
    write_results(tmp_path)
    report(tmp_path, "recorder", 0, range(1, 2))
    report(tmp_path, "recorder", 1, range(2, 3), finish=2)
    assert recorder.closed == [False, True]
    assert recorder.scores == {"test/all/n": 7, "test/all/f1@1": 0.25, "test/forms/direct": 1}
    assert [file.name for file in recorder.files] == ["config.json", "results.json", "report.html"]


def test_what_was_sent_survives_a_kill_at_any_moment(tmp_path):
    sent = Sent(tmp_path / "t" / "x.txt")
    sent.record(step=12345678)
    assert len((tmp_path / "t" / "x.txt").read_text()) == len(f"{sent.id} {0:012d} {0:012d}\n")
    again = Sent(tmp_path / "t" / "x.txt")  # without a close
    assert (again.id, again.step, again.summary) == (sent.id, 12345678, -1)


def test_none_is_on_by_default_and_each_choice_has_its_module_and_its_extra():
    assert default_config().report_to == ()
    assert field_named("report_to").choices == tuple(READ)
    extras = (Path(__file__).parents[2] / "setup.py").read_text()
    for name in READ:
        assert (Path(trackers.__file__).parent / f"{name}.py").exists() and f'    "{name}": [' in extras


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(tmp_path, monkeypatch, capsys):
    from mmkp_jax import main

    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    flags = ["--config=configs/dyncot.py", "--config.report_to=wandb,mlflow", f"--workdir={tmp_path / 'run'}"]
    assert main.main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    fix = "pip install 'mmkp_jax[wandb,mlflow]'"
    assert line.endswith(f"config.report_to: wandb and mlflow are not installed; {fix}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "value, fault",
    [("wand", "unknown report_to 'wand'"), ("(1,)", "(1,) is not a list of texts"), ("wandb,neptune", "'neptune'")],
)
def test_an_unknown_tracker_is_refused(value, fault, capsys):
    from mmkp_jax import main

    assert main.main(["--config=configs/dyncot.py", f"--config.report_to={value}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "config.report_to: " in line and fault in line and "wandb" in line
