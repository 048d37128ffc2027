"""Checkpoints: damage is detected and skipped; and what a failed read or write prints."""

import errno
import gc
import math
import os
import random
import shutil
import sys

import jax
import numpy as np
import pytest

from benchmarks.soak_bitflip import flip_bit, flips
from mmkp_jax.errors import InputError
from mmkp_jax.training.checkpoint import Best, Checkpoints, _reason

ABANDONED = """
class Pause:
    def __await__(self):
        yield

async def read():
    try:
        await Pause()
    except BaseException as error:
        raise OSError("a part could not be read") from error
"""


@pytest.mark.parametrize(
    ("file", "is_printed"), [("/lib/orbax/checkpoint/read.py", False), ("/lib/other/read.py", True)]
)
def test_errors_of_orbax_coroutines_are_silenced_and_those_of_others_printed(
    tmp_path, monkeypatch, capsys, file, is_printed
):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # restored after the test
    found = {}
    exec(compile(ABANDONED, file, "exec"), found)
    with Checkpoints(tmp_path):
        reading = found["read"]()
        reading.send(None)
        del reading
        gc.collect()
    assert ("a part could not be read" in capsys.readouterr().err) == is_printed


@pytest.mark.parametrize(
    "message",
    [
        "DATA_LOSS: writing d/0: File too large [os_error_code='27'] [source locations='a.cc:1']",
        "writing d/0: File too large [source='a: {1}'] [os_error_code='27']",
    ],
)
def test_the_message_of_the_operating_system_is_found_in_any_text(message):
    assert _reason(ValueError(message)) == "File too large"
    assert _reason(ValueError("no\n such thing")) == "no such thing"


def small_state(scale=1.0):
    """A state of some 100 KB in several files, and its layout."""
    keys = jax.random.split(jax.random.key(0), 3)
    state = {f"w{n}": scale * jax.random.normal(key, (100, 100)) for n, key in enumerate(keys)}
    return state, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of two checkpoints, of steps 3 and 6; tests take a copy."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        for step in (3, 6):
            checkpoints.save(step, small_state(step)[0], {"data": "x"})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def restored(folder):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore_latest(small_state()[1])


def test_every_flipped_bit_of_a_checkpoint_is_detected(folder):
    """A reduced form of `benchmarks/soak_bitflip.py`, which flips 200 bits of a whole run's checkpoint."""
    with Checkpoints(folder) as checkpoints:
        layout = small_state()[1]
        found = list(flips(folder / "6", 24, random.Random(0), lambda: checkpoints.restore(6, layout)))
        assert [flip.noticed for flip in found] == [True] * 24
        for file in [each for each in (folder / "6").rglob("*") if each.is_file()]:
            flip_bit(file, 5)
            with pytest.raises(InputError, match="6: it is damaged"):
                checkpoints.restore(6, layout)
            flip_bit(file, 5)
        assert jax.tree.all(jax.tree.map(np.array_equal, checkpoints.restore(6, layout).state, small_state(6)[0]))


def largest(step):
    return max((file for file in step.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda step: os.truncate(largest(step), 1000), "has 1,000 bytes instead of"),
        (lambda step: largest(step).unlink(), "is missing"),
        (lambda step: (step / "state/d/new").write_bytes(b"x"), "state/d/new is not written with it"),
        (lambda step: (step / "checksums.json").write_text("{}"), "checksums.json is not what was written"),
        (lambda step: shutil.rmtree(step / "note"), "note/commit_success.txt and 1 more are missing"),
    ],
    ids=["cut", "file gone", "file added", "checksums", "folder gone"],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_previous_one_is_restored(folder, capsys, harm, message):
    harm(folder / "6")
    found = restored(folder)
    assert found.step == 3 and np.array_equal(found.state["w0"], small_state(3)[0]["w0"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"{folder}/6: it is damaged (") and message in lines[0]
    assert lines[1] == "going back to step 3; that of step 6 is put aside"
    assert sorted(each.name.split("-")[0] for each in folder.iterdir()) == ["3", "6.damaged"]


def test_when_every_checkpoint_is_damaged_none_is_restored_or_set_aside(folder):
    for step in ("3", "6"):
        os.truncate(largest(folder / step), 10)
    with pytest.raises(InputError, match="3: it is damaged"):
        restored(folder)
    assert sorted(each.name for each in folder.iterdir()) == ["3", "6"]


def test_a_checkpoint_without_checksums_is_restored_with_a_warning(folder, capsys):
    (folder / "6/checksums.json").unlink()
    assert restored(folder).step == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{folder}/6: it has no checksums (checksums.json), so that damage in it would not be noticed"


def test_a_checkpoint_that_was_cut_off_before_its_checksums_does_not_count(saved, tmp_path, monkeypatch):
    """Checksums are written last, before the folder gets its name: a kill leaves no checkpoint without them."""

    def killed(folder):
        raise OSError(errno.EIO, "killed here")

    monkeypatch.setattr("mmkp_jax.training.sealing.write_checksums", killed)
    folder = shutil.copytree(saved, tmp_path / "cut off")
    with pytest.raises(InputError, match="cannot be written"), Checkpoints(folder) as checkpoints:
        checkpoints.save(9, small_state(9)[0], {})
    assert not (folder / "9").exists() and any(each.name.startswith("9.") for each in folder.iterdir())
    monkeypatch.undo()
    assert restored(folder).step == 6
    left = {each.name for each in folder.iterdir()}
    assert left - {"9.orbax-checkpoint-tmp"} == {"3", "6"}  # which Orbax removes when it gets to it


def test_a_damaged_best_step_is_set_aside_and_later_steps_are_offered(tmp_path, capsys):
    state = {"trainable": small_state()[0], "frozen": {}}
    layout = {"trainable": small_state()[1], "frozen": {}}
    for harmed_at_start in (True, False):
        folder = tmp_path / f"best-{harmed_at_start}"
        with Best(folder, "score", step=0) as best:
            best.offer(2, state, {"score": 0.5}, {"w": "digest"})
            if not harmed_at_start:
                os.truncate(largest(folder / "2"), 10)
                assert best.restore(layout) is None
        if harmed_at_start:
            os.truncate(largest(folder / "2"), 10)
            with Best(folder, "score", step=2) as best:
                assert best.score == -math.inf
                best.offer(4, state, {"score": 0.1}, {"w": "digest"})
                assert best.restore(layout).metadata == {"metric": "score", "score": 0.1, "base": {"w": "digest"}}
        assert "2: it is damaged" in capsys.readouterr().err
        assert [each.name for each in folder.iterdir() if "damaged" not in each.name] == ["4"] * harmed_at_start
    with Best(tmp_path / "best-True", "score", step=4) as best:
        assert best.score == 0.1
