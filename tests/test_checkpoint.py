"""What a failed read or write leaves on the terminal."""

import gc
import sys

import pytest

from mmkp_jax.checkpoint import Checkpoints, _reason

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


@pytest.mark.parametrize(("file", "told"), [("/lib/orbax/checkpoint/read.py", False), ("/lib/other/read.py", True)])
def test_what_orbax_abandons_tells_nothing_and_what_others_do_is_told(tmp_path, monkeypatch, capsys, file, told):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # so that it is set back afterwards
    found = {}
    exec(compile(ABANDONED, file, "exec"), found)
    with Checkpoints(tmp_path):
        reading = found["read"]()
        reading.send(None)
        del reading
        gc.collect()
    assert ("a part could not be read" in capsys.readouterr().err) == told


@pytest.mark.parametrize(
    "told",
    [
        "DATA_LOSS: writing d/0: File too large [os_error_code='27'] [source locations='a.cc:1']",
        "writing d/0: File too large [source='a: {1}'] [os_error_code='27']",
    ],
)
def test_what_the_system_says_is_told_whatever_stands_around_it(told):
    assert _reason(ValueError(told)) == "File too large"
    assert _reason(ValueError("no\n such thing")) == "no such thing"
