"""Ends of a run: steps that are not finite, a hanging step, a preempted machine."""

import http.server
import json
import signal
import subprocess
import sys
import threading
import time
from typing import ClassVar

import numpy as np
import pytest

from mmkp_jax.data.pipeline import Feed
from mmkp_jax.errors import LOST, InputError
from mmkp_jax.main import main
from mmkp_jax.runtime.maintenance import SERVER, watch_maintenance
from mmkp_jax.training.watchdog import SkippedSteps
from tests.support.small_pocket import ROOT, command, environment, metrics, small_pocket

FINITE = {"skipped": 0.0, "loss": 1.0, "grad_norm": 1.0}
NOT_FINITE = {"skipped": 1.0, "loss": float("nan"), "grad_norm": float("inf")}


def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path):
    skipped = SkippedSteps(tmp_path, most=3, step=0)
    for step, seen in enumerate([NOT_FINITE, NOT_FINITE, FINITE, NOT_FINITE, NOT_FINITE], 1):
        skipped.record(step, seen, lambda step=step: [f"post-{step}"])
    with pytest.raises(InputError, match="3 steps in a row, up to step 6"):
        skipped.record(6, NOT_FINITE, lambda: ["post-6"])
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 4, 5, 6]
    assert lines[0] == {"step": 1, "loss": "nan", "grad_norm": "inf", "posts": ["post-1"]}
    SkippedSteps(tmp_path, most=3, step=4)  # resumed from there
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 3


def test_a_batch_that_is_not_finite_is_skipped_and_listed_and_several_end_the_run(tmp_path, monkeypatch, capsys):
    """Labels of infinite weight make the loss of their posts NaN. Steps are loaded in order, by one thread."""
    pocket, workdir = small_pocket(tmp_path), tmp_path / "run"
    flags = ("--config.max_nonfinite=2", "--config.checkpoint_every=1", "--config.total_steps=8")
    arguments = command(pocket, f"--workdir={workdir}", *flags)[3:]
    load, poisoned, batches = Feed.load, {3}, {}

    def poison(feed, rows):
        forest = load(feed, rows)
        step = batches.setdefault(tuple(rows), len(batches) + 1)
        ids[step] = [feed.records[post].id for row in rows for post in row]
        if step in poisoned:
            forest.weight_BM[forest.weight_BM > 0] = np.inf
        return forest

    ids: dict[int, list[str]] = {}
    monkeypatch.setattr(Feed, "load", poison)
    monkeypatch.setattr("mmkp_jax.training.loop._feed", lambda config, training, step: in_order(training, step))
    assert main(arguments) == 0
    curve = metrics(workdir)
    assert [line["step"] for line in curve if line["skipped"]] == [3] and curve[2]["loss"] is None
    assert all(line["loss"] for line in curve if line["step"] != 3)
    (line,) = [json.loads(line) for line in (workdir / "skipped.jsonl").read_text().splitlines()]
    assert line["posts"] == ids[3]

    capsys.readouterr()
    poisoned |= {6, 7}
    batches.clear()
    other = [each.replace(str(workdir), str(tmp_path / "other")) for each in arguments]
    assert main(other) == 2
    error = capsys.readouterr().err
    assert "2 steps in a row, up to step 7, is not finite" in error and "Traceback" not in error
    assert (tmp_path / "other/checkpoints/5").exists()
    poisoned.clear()
    batches.clear()
    monkeypatch.setattr(Feed, "load", load)
    assert main(other) == 0  # the posts were fixed
    assert [line["step"] for line in metrics(tmp_path / "other")] == list(range(1, 9))


def in_order(training, step):
    batches = [batch for plan in training.plans for batch in plan][step:]
    return (((0, 0), training.feed.load(batch)) for batch in batches)


WATCHED = """
import sys, time
from pathlib import Path
from mmkp_jax.training.watchdog import Watchdog

def what_hangs():
    time.sleep(60)

with Watchdog(Path(sys.argv[1]), 0.5) as dog, dog.counting("step"):
    time.sleep(1)  # the first step may take long
    dog.beat()
    with dog.pausing():
        time.sleep(1)
        with dog.counting("answer"):
            time.sleep(1)  # so may the first answer
            dog.beat()
            if sys.argv[2] == "answer":
                print("alive", flush=True)
                what_hangs()
        time.sleep(1)
    print("alive", flush=True)
    what_hangs()
"""


@pytest.mark.parametrize("what", ["step", pytest.param("answer", marks=pytest.mark.nightly)])
def test_a_hanging_step_or_answer_dumps_all_stacks_and_ends_the_run(tmp_path, what):
    line = [sys.executable, "-c", WATCHED, str(tmp_path), what]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == LOST and "alive" in done.stdout
    assert f"no {what} ended for 0.5 s; all stacks are in {tmp_path / 'stacks-0.txt'}" in done.stderr
    assert "what_hangs" in (tmp_path / "stacks-0.txt").read_text()


@pytest.mark.nightly
def test_a_hanging_worker_ends_the_run_which_then_resumes(tmp_path):
    pocket, workdir = small_pocket(tmp_path), tmp_path / "run"
    flags = (f"--workdir={workdir}", "--config.data.workers=1", "--config.hang_seconds=5", "--config.total_steps=40")
    process = subprocess.Popen(
        command(pocket, *flags),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (workdir / "metrics.jsonl").exists() or len(metrics(workdir)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for child in children:
        subprocess.run(["kill", "-STOP", child])
    process.wait(timeout=120)
    for child in children:  # as they hold its stderr open
        subprocess.run(["kill", "-KILL", child], capture_output=True)
    _, error = process.communicate()
    assert process.returncode == LOST and "no step ended for 5 s" in error
    again = subprocess.run(command(pocket, *flags), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert [line["step"] for line in metrics(workdir)] == list(range(1, 41))


class Announcing(http.server.BaseHTTPRequestHandler):
    """A metadata server that announces maintenance from the fifth request on."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        assert self.headers["Metadata-Flavor"] == "Google"
        self.asked.append(self.path)
        idle = "FALSE" if self.path.endswith("preempted") else "NONE"
        self.send_response(200)
        self.end_headers()
        self.wfile.write((idle if len(self.asked) < 5 else "TERMINATE_ON_HOST_MAINTENANCE").encode())

    def log_message(self, *_):
        pass


def test_a_maintenance_event_sends_sigterm(monkeypatch):
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(len(Announcing.asked)))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Announcing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(SERVER, f"127.0.0.1:{server.server_port}")
        try:
            with watch_maintenance(every=0.02):
                deadline = time.monotonic() + 20
                while not received and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(0.2)
        finally:
            signal.signal(signal.SIGTERM, before)
            server.shutdown()
    assert received == [5]  # once, and at once
    assert set(Announcing.asked) == {
        "/computeMetadata/v1/instance/maintenance-event",
        "/computeMetadata/v1/instance/preempted",
    }
