"""Answers are the same on any mesh, and all processes of a run come to all of them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.support.devices import fake_devices
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.tiny import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder


OTHERS = ("8x1x1", "1x8x1")


def started(devices: int, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.support.sharded_decoding", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=fake_devices(devices), **pipes)


def report_of(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-4000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def alone(folder):
    """Reports of one device, and of a mesh that divides everything."""
    return report_of(started(8, "1x1x1,2x2x2", str(folder)))


@pytest.fixture(scope="module")
def others(folder):
    return report_of(started(8, "8x1x1,1x8x1", str(folder)))


@pytest.mark.parametrize("mesh", ["2x2x2", *(pytest.param(mesh, marks=pytest.mark.nightly) for mesh in OTHERS)])
def test_a_mesh_generates_as_one_device_does(alone, mesh, request):
    """Token by token, greedy in each mode and sampled, with more slots than posts on one shard and fewer."""
    expected = alone["1x1x1"]
    found = (request.getfixturevalue("others") if mesh in OTHERS else alone)[mesh]
    assert found["answers"] == expected["answers"] and found["loaded"] == expected["loaded"]
    greedy = expected["answers"]["greedy"]
    assert expected["longest"] > 64
    assert greedy["4"] is None and sum(map(len, filter(None, greedy.values()))) > 40
    assert expected["loaded"] == sorted(2 * list(range(13)))
    assert all(greedy[str(n)][0] != 5 and greedy[str(n + 1)][:2] == [5, 9] for n in (1, 7, 10))  # direct, think
    assert found["states"].keys() == expected["states"].keys() == greedy.keys() - {"4"}
    for prompt, state in found["states"].items():
        np.testing.assert_allclose(state, expected["states"][prompt], rtol=0, atol=1e-4)


@pytest.mark.nightly
def test_no_token_waits_for_other_devices_that_have_all_the_weights(others):
    assert others["8x1x1"]["sent"] == {}


@pytest.mark.nightly
def test_weights_of_which_each_device_has_a_part_are_gathered_layer_by_layer(others):
    assert others["1x8x1"]["sent"]["all-gather"] >= 7 * 3  # seven matrices of three layers


@pytest.mark.nightly
@pytest.mark.parametrize("mesh", ["2x2x2", "1x8x1"])
def test_two_processes_share_the_images_and_both_yield_all_completions(alone, folder, mesh):
    address = f"127.0.0.1:{free_port()}"
    processes = [started(4, mesh, str(folder), address, str(number)) for number in range(2)]
    one, other = map(report_of, processes)
    assert one[mesh]["answers"] == other[mesh]["answers"] == alone["1x1x1"]["answers"]
    assert one[mesh]["states"] == other[mesh]["states"] and len(one[mesh]["states"]) == 12
    assert sorted(one[mesh]["loaded"] + other[mesh]["loaded"]) == alone["1x1x1"]["loaded"]
    assert one[mesh]["loaded"] and other[mesh]["loaded"]
