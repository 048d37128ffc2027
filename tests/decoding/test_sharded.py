"""Answers are the same on any mesh, and all processes of a run come to all of them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.support import zoo
from tests.support.devices import fake_devices
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.sharded_decoding import FIRST, LOST

DEFAULT = (FIRST, "mllama")
"""Members of the default tier: all kinds of meshes and completions, and cross-attention, whose keys are divided too."""

NAMES = [param.values[0] for param in zoo.first_geometries()]
MESHES = ("8x1x1", "1x8x1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of model folders, by name."""
    root = tmp_path_factory.mktemp("models")
    for name in NAMES:
        zoo.write_folder(root / name, zoo.model_of(name))
    return root


def started(devices: int, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.support.sharded_decoding", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=fake_devices(devices), **pipes)


def report_of(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-4000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def default(folders):
    """Reports of one device, and of a mesh that divides everything."""
    return report_of(started(8, "1x1x1,2x2x2", ",".join(DEFAULT), folders))


@pytest.fixture(scope="module")
def other_members(folders):
    return report_of(started(8, "1x1x1,2x2x2", ",".join(name for name in NAMES if name not in DEFAULT), folders))


@pytest.fixture(scope="module")
def other_meshes(folders):
    return report_of(started(8, ",".join(f"{mesh} sent" for mesh in MESHES), FIRST, folders))


def compare(found: dict, expected: dict) -> None:
    """Token by token; some prompts have no completion, and some end before others."""
    assert found["answers"] == expected["answers"] and found["loaded"] == expected["loaded"]
    greedy = expected["answers"]["greedy"]
    lengths = [len(tokens) for tokens in greedy.values() if tokens is not None]
    assert greedy[str(LOST)] is None and len(set(lengths)) > 1 and sum(lengths) > 10
    assert expected["loaded"] == sorted(len(expected["answers"]) * list(range(len(greedy))))
    assert found["states"].keys() == expected["states"].keys() == greedy.keys() - {str(LOST)}
    for prompt, state in found["states"].items():
        np.testing.assert_allclose(state, expected["states"][prompt], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.nightly) for name in NAMES]
)
def test_a_mesh_generates_as_one_device_does(name, request):
    """With more slots than posts on one shard and fewer; the first member sampled, and greedily in each mode."""
    reports = request.getfixturevalue("default" if name in DEFAULT else "other_members")
    compare(reports[f"{name} on 2x2x2"], reports[f"{name} on 1x1x1"])
    if name == FIRST:
        alone = reports[f"{name} on 1x1x1"]
        greedy = alone["answers"]["greedy"]
        assert alone["longest"] > 64 and len(alone["answers"]) == 2
        assert all(greedy[str(n)][0] != 5 and greedy[str(n + 1)][:2] == [5, 9] for n in (1, 7, 10))  # direct, think


@pytest.mark.nightly
@pytest.mark.parametrize("mesh", MESHES)
def test_other_meshes_generate_as_one_device_does(default, other_meshes, mesh):
    compare(other_meshes[f"{FIRST} on {mesh}"], default[f"{FIRST} on 1x1x1"])


@pytest.mark.nightly
def test_no_token_waits_for_other_devices_that_have_all_the_weights(other_meshes):
    assert other_meshes[f"{FIRST} on 8x1x1"]["sent"] == {}


@pytest.mark.nightly
def test_weights_of_which_each_device_has_a_part_are_gathered_layer_by_layer(other_meshes):
    assert other_meshes[f"{FIRST} on 1x8x1"]["sent"]["all-gather"] >= 7 * 3  # seven matrices of three layers


@pytest.mark.nightly
@pytest.mark.parametrize("mesh", ["2x2x2", "1x8x1"])
@pytest.mark.parametrize("name", DEFAULT)
def test_two_processes_share_the_images_and_both_yield_all_completions(default, folders, name, mesh):
    address = f"127.0.0.1:{free_port()}"
    processes = [started(4, mesh, name, folders, address, number) for number in range(2)]
    (one, other), alone = (report_of(each)[f"{name} on {mesh}"] for each in processes), default[f"{name} on 1x1x1"]
    assert one["answers"] == other["answers"] == alone["answers"]
    assert one["states"] == other["states"] and one["states"].keys() == alone["states"].keys()
    assert sorted(one["loaded"] + other["loaded"]) == alone["loaded"]
    assert one["loaded"] and other["loaded"]
