"""A command prints on any terminal, ends quietly on a closed pipe, and at any Ctrl-C with 130 and one line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.cli import status_of
from mmkp_jax.runtime.interrupts import INTERRUPTED
from mmkp_jax.runtime.terminal import UNREAD
from tests.support.paths import ROOT

POST = {"id": "a", "text": "a dog", "image": None, "keyphrases": ["dogs"], "cot": None}


@pytest.fixture
def score(tmp_path):
    """The command, which prints `±`."""
    (tmp_path / "posts.jsonl").write_text(json.dumps(POST))
    (tmp_path / "p\u001b[2J.txt").write_text("dogs\n")
    files = [f"--posts={tmp_path / 'posts.jsonl'}", f"--predictions={tmp_path}/p\u001b[2J.txt", f"--json={tmp_path}/o"]
    return [sys.executable, "-m", "mmkp_jax.score", *files, f"--compare={tmp_path}/p\u001b[2J.txt", "--resamples=100"]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_of_another_encoding_gets_escapes(score, encoding):
    done = subprocess.run(score, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert ("± ".encode("latin-1") if encoding == "latin-1" else rb"\xb1 ") in done.stdout
    assert (
        rb"p\x1b[2J.txt" in done.stdout and b"\x1b" not in done.stdout
    )  # control characters of a file name are escaped


def test_unread_output_is_dropped_and_the_files_are_written(score, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(score, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (UNREAD, b"") and json.loads((tmp_path / "o").read_text())["all"]


def test_another_broken_pipe_does_not_count_as_unread_output():
    def run(_):
        raise BrokenPipeError("of a worker")

    with pytest.raises(BrokenPipeError):
        status_of(run)


def test_control_characters_of_a_message_are_escaped(capsys):
    def run(_):
        raise InputError("the id '\x1b[2J\u202e' is there twice", "posts.jsonl", "keep one")

    assert status_of(run) == 2
    assert capsys.readouterr().err == "posts.jsonl: the id '\\x1b[2J\\u202e' is there twice; keep one\n"


SLOW = "import os, time; open(os.environ['BEGUN'], 'w').close(); time.sleep(60)\n"


@pytest.mark.parametrize(
    "command, imported",
    [("main --config=dyncot", "jax"), ("report run --out=page.html", "jinja2"), ("score --help", "numpy")],
)
def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path, command, imported):
    """A slow package of that name shadows the real one."""
    (tmp_path / imported).mkdir()
    (tmp_path / imported / "__init__.py").write_text(SLOW)
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "BEGUN": str(tmp_path / "begun")}
    command = [sys.executable, "-m", *f"mmkp_jax.{command}".split()]
    assert interrupted(command, tmp_path / "begun", environment=environment) == (INTERRUPTED, "\ninterrupted\n")


RUNNING = """
import sys, time
sys.argv[0] = "-m"  # as while Python looks for the module
import mmkp_jax
from mmkp_jax.runtime.cli import status_of
def run(_):
    try:
        open(sys.argv[1], "w").close()
        time.sleep(60)
    finally:
        open(sys.argv[1] + "2", "w").close()
        time.sleep({finishing})
sys.exit(status_of(run, interrupted="the same command resumes"))
"""


def test_the_first_ctrl_c_lets_a_command_finish_and_says_how_to_resume(tmp_path):
    command = [sys.executable, "-c", RUNNING.format(finishing=0), str(tmp_path / "begun")]
    assert interrupted(command, tmp_path / "begun") == (INTERRUPTED, "\nthe same command resumes\n")


def test_a_second_ctrl_c_ends_a_command_at_once(tmp_path):
    command = [sys.executable, "-c", RUNNING.format(finishing=60), str(tmp_path / "begun")]
    both = tmp_path / "begun", tmp_path / "begun2"
    assert interrupted(command, *both) == (INTERRUPTED, "\ninterrupted\n")


def interrupted(command, *moments, environment=None):
    """Status and stderr of a command that gets SIGINT when each of these files appears."""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            for file in moments:
                until = time.monotonic() + 60
                while not file.exists() and process.poll() is None and time.monotonic() < until:
                    time.sleep(0.02)
                process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
        finally:
            process.kill()
    return process.returncode, error


def test_a_closed_output_is_no_traceback(tmp_path):
    posts, predictions = tmp_path / "p.jsonl", tmp_path / "p.txt"
    posts.write_text('{"id": "a", "text": "snow", "image": null, "keyphrases": ["snow"]}\n')
    predictions.write_text("snow\n")
    command = f"{sys.executable} -m mmkp_jax.score --posts={posts} --predictions={predictions} >&-"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
