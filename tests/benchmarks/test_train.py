"""The yardstick: our step and a plain trainer have the same losses and gradients, and another gradient is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.train import check, compare, gradient_folder, splitting
from benchmarks.trainers.job import Job
from benchmarks.trainers.ours import ALONE, Ours
from benchmarks.trainers.report import report
from tests.support.needs_torch import needs_torch
from tests.support.paths import ROOT

JOB = Job("tiny", "float32", 4)


class InProcess:
    """Both trainers without processes of their own."""

    def __init__(self, folder):
        from benchmarks.trainers.theirs import Theirs

        self.sides = {"ours": Ours(str(folder), JOB)}  # which writes the folder
        self.sides["theirs"] = Theirs(str(folder), JOB)

    def call(self, side, method, *arguments):
        return getattr(self.sides[side], method)(*arguments)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    torch = needs_torch()
    threads = torch.get_num_threads()
    workers = InProcess(tmp_path_factory.mktemp("train") / "model")
    torch.set_num_threads(1)  # its threads wait busily for a core that other tests have
    yield workers
    torch.set_num_threads(threads)


@pytest.mark.nightly
def test_losses_and_gradients_are_those_of_a_plain_trainer(workers, tmp_path):
    figures = compare(workers, JOB, ["dyncot"], 1, tmp_path)
    dyncot = figures["strategies"]["dyncot"]
    assert dyncot["on_cot"] == 2  # of 4
    assert dyncot["equal"]["losses"] < 1e-5 and dyncot["equal"]["gradient"]["worst"] < 1e-4
    assert dyncot["equal"]["gradient"]["tensors"] == 31 and dyncot["equal"]["ways"] == 7
    assert {"decoder's attention, products", "head and losses, rest", "optimizer and sums, rest"} <= set(
        dyncot["profile"]
    )
    assert "2 of 4 posts on their CoT targets" in report(figures)


def test_other_losses_choices_and_gradients_are_refused(tmp_path):
    ours = {ALONE: {"losses": [1.0, 2.0], "on_cot": [True, False]}}
    ours["2 posts a row"] = ours[ALONE]
    theirs = {"batch size 1": {"losses": [1.0, 2.0], "on_cot": [True, False]}}
    weights = {"norm": np.ones(3, np.float32), "matrix": np.full((2, 2), 100, np.float32)}
    folders = [
        gradient_folder(tmp_path, *of) for of in (("ours", "sft", "2 posts a row"), ("theirs", "sft", "batch size 1"))
    ]
    for folder in folders:
        folder.mkdir()
        save_file(weights, folder / "model.safetensors")

    def checked(ours):
        return check(ours, theirs, tmp_path, "sft", "float32")

    assert checked(ours)["gradient"]["worst"] == 0
    for way in ours:
        with pytest.raises(SystemExit, match="losses are not equal"):
            checked(ours | {way: {"losses": [1.0, 2.002], "on_cot": [True, False]}})
        with pytest.raises(SystemExit, match="other posts are on their CoT targets"):
            checked(ours | {way: {"losses": [1.0, 2.0], "on_cot": [True, True]}})
    save_file(weights | {"norm": 1.01 * weights["norm"]}, folders[0] / "model.safetensors")  # small in the whole
    with pytest.raises(SystemExit, match=r"gradients are not equal: .*norm"):
        checked(ours)
    save_file({"matrix": weights["matrix"]}, folders[0] / "model.safetensors")
    with pytest.raises(SystemExit, match=r"gradients of one side only: .*norm"):
        checked(ours)


def test_needed_flops_are_between_the_targets_alone_and_both(workers):
    call = workers.call
    sft, cot = (call("ours", "needed_flops", name, []) for name in ("sft", "cot"))
    none, half, all_ = (call("ours", "needed_flops", "dyncot", [i < n for i in range(4)]) for n in (0, 2, 4))
    assert none == sft < half < all_
    assert cot < all_ < cot + sft


def test_gamma_splits_the_posts_in_half():
    losses = np.random.default_rng(0).normal(10, 1, 8).tolist()
    assert sum(loss < splitting(losses) for loss in losses) in (4, 5)
    assert sum(loss < splitting([3.0, 1.0]) for loss in (3.0, 1.0)) == 1


@pytest.mark.nightly
def test_command_compares_all_strategies_in_processes(tmp_path):
    needs_torch()
    command = [sys.executable, "-m", "benchmarks.train", "--size=tiny", "--rounds=2", f"--json={tmp_path / 'f.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())
    assert list(figures["strategies"]) == ["sft", "cot", "dyncot"]
    for of in figures["strategies"].values():
        assert len(of["runs"]["ours"][ALONE]) == 2
    assert done.stdout.count("best over best") == 3
