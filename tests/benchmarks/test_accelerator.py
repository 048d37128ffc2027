"""The command for a visit to a GPU: its dry run at tiny size, and that no part can end or hide another."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.accelerator.report import table
from benchmarks.accelerator.running import Part, run_parts
from tests.support.needs_tokamax import INSTALLED
from tests.support.paths import ROOT

TORCH = importlib.util.find_spec("torch") is not None
NEEDS = {
    "steps-tokamax": (INSTALLED, "tokamax is not installed"),
    "train": (TORCH, "theirs: the process ended"),
    "decode": (TORCH, "No module named 'torch'"),
}
"""Parts that need what may not be installed, and what their output says without it."""


def dry_run(out: Path, *parts: str) -> tuple[dict, str]:
    """The results by part, and the table."""
    command = ["benchmarks/accelerator.sh", str(out), "--size=tiny", f"--parts={','.join(parts)}", "--revision=this"]
    done = subprocess.run(
        ["bash", *command], cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(out.read_text())["parts"], done.stdout


def check_status(results: dict[str, dict]) -> None:
    """Every part is done, except for one that lacks a package, which says so."""
    for name, part in results.items():
        installed, message = NEEDS.get(name, (True, ""))
        assert part["status"] == ("done" if installed else "failed"), part["output"]
        assert message in part["output"] or installed


@pytest.mark.nightly
def test_a_dry_run_shows_parity_steps_and_plan(tmp_path):
    results, printed = dry_run(tmp_path / "out.json", "parity", "steps-sliced", "steps-tokamax", "plan")
    check_status(results)
    found = {name: part["found"] for name, part in results.items()}
    for cases in found["parity"]["backends"].values():
        assert len(cases) == 2 and all(case["error"] <= case["limit"] for case in cases.values())
    steps, plan = found["steps-sliced"], found["plan"]["sliced"]
    assert steps["posts"] == 4 and len(steps["all_seconds"]) == steps["steps"] == 2 and steps["first_step"]["loss"] > 0
    assert plan["bytes"] == pytest.approx(steps["compiled_bytes"], rel=0.05)
    assert "mfu" not in steps and plan["mfu_at_best"] is None  # a CPU's peak is not known
    if INSTALLED:
        assert found["steps-tokamax"]["first_step"]["loss"] == pytest.approx(steps["first_step"]["loss"], rel=1e-2)
    assert "| train step, `sliced`, median of 2 |" in printed and "revision this:" in printed


@pytest.mark.nightly
def test_a_dry_run_shows_the_comparisons_with_pytorch(tmp_path):
    results, printed = dry_run(tmp_path / "out.json", "train", "decode")
    check_status(results)
    if TORCH:
        (mix,) = results["decode"]["found"]["mixes"].values()
        assert mix["posts_a_second"].keys() == {"refilled", "whole batches", "transformers"}
        assert "| `benchmarks/train.py`, sft, each side's best |" in printed


def test_the_wheels_to_bring_are_those_of_the_tested_releases():
    def pins(file: str) -> dict[str, str]:
        lines = map(str.strip, (ROOT / file).read_text().splitlines())
        parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
        kept = [each for each in parsed if not each.marker or each.marker.evaluate({"python_version": "3.12"})]
        return {canonicalize_name(each.name): str(each.specifier) for each in kept}

    tested, wheels = pins("requirements/tested.txt"), pins("benchmarks/accelerator/wheels.txt")
    shared = tested.keys() & wheels.keys()
    assert shared == {"array-record", "ml-collections", "tensorflow-datasets", "tokamax"}
    assert all(tested[name] == wheels[name] for name in shared)


PROGRAM = """
import subprocess, sys, time
from pathlib import Path
from benchmarks.accelerator.notes import Notes

notes = Notes(Path(sys.argv[-1].partition("=")[2]))
notes.put(half=0.5, not_finite=float("nan"))
if "--slow" in sys.argv:
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(4); open({sys.argv[2]!r}, 'w')"])
    time.sleep(60)
notes.put(whole=1)
if "--broken" in sys.argv:
    raise SystemExit("the reason | in one line")
"""


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Parts that are in time, too late, broken, and one for which no time is left; one next to them."""
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parts = [
        Part("parity", "program", ("--slow", str(tmp_path / "child")), 2.0),
        Part("decode", "program", ("--broken",), 9.0),
        Part("train", "program", (), 9.0),
        Part("steps", "program", (), 100.0),
    ]
    return run_parts(parts[:3], [Part("plan", "program", (), 9.0)], 12.0, tmp_path) | run_parts(
        parts[3:], [], 0.0, tmp_path
    )


def test_a_part_that_is_late_or_broken_is_recorded_and_ends_no_other(results, tmp_path):
    assert {name: part["status"] for name, part in results.items()} == {
        "parity": "out of time",
        "decode": "failed",
        "train": "done",
        "plan": "done",
        "steps": "not started",
    }
    assert results["parity"]["found"] == {"half": 0.5, "not_finite": None}  # what it found in time
    assert all(results[name]["found"]["whole"] == 1 for name in ("decode", "train", "plan"))
    time.sleep(max(0.0, 4.5 - sum(part["seconds"] for part in results.values())))
    assert not (tmp_path / "child").exists()  # what a late part started is ended with it


def test_the_table_names_what_failed_and_why_and_leaves_out_what_was_not_measured():
    steps = {"step_seconds": 0.5, "posts_a_second": 94.0, "tokens_a_second": 65_000.0, "steps": 20, "mfu": 0.42}
    cases, rates = {"a": {"agrees": False}, "b": {"agrees": True}}, {"refilled": 80.0, "transformers": 20.0}
    whole = {
        "began": "2026-11-28T10:00:00+00:00",
        "size": "3b",
        "revision": "",
        "parts": {
            "parity": part(machine="1 x GPU", missing={}, backends={"tokamax": cases}),
            "steps-sliced": part(**steps, compile_seconds=60.0, peak_bytes=60e9),
            "train": {**part(), "status": "failed", "seconds": 7.0, "output": "a line\nthe reason | in one line\n"},
            "decode": part(dtype="bfloat16", mixes={"mix": {"posts_a_second": rates}}),
            "plan": part(sliced={"bytes": 50e9, "seconds_at_best": 0.4, "mfu_at_best": 0.5}),
        },
    }
    assert table(whole).split("\n")[2:] == [
        "| what | figure |",
        "| --- | --- |",
        "| `tokamax` against the dense rule | 1 of 2 cases agree; not: a |",
        "| train step, `sliced`, median of 20 | 0.500 s, 94.00 posts/s, 65,000 tokens/s, MFU 42.0%; compiled in 60 s |",
        "| train step, `sliced`, memory | 50 GB planned, 60 measured (1.20) |",
        "| train step, `sliced`, seconds at best | 0.4 s planned, 0.5 measured (1.25) |",
        "| train: failed | after 7 s; the reason \\| in one line |",
        "| decoding, mix, bfloat16 | 80.0 posts/s, transformers' `generate` 20.0 (4.00×) |",
        "| `plan`, `sliced` | 50.0 GB, MFU at best 50.0% |",
    ]


def part(**found) -> dict:
    return {"status": "done", "seconds": 1.0, "found": found, "output": ""}
