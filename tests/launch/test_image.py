"""launch/Dockerfile: hadolint, its extras, and its install, run here in an environment of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FILE = ROOT / "launch/Dockerfile"
TEXT = FILE.read_text()
INSTALL = re.search(r"^RUN (.*)$", TEXT, re.M)[1]
DEFAULTS = dict(re.findall(r"^ARG (\w+)=(.*)$", TEXT, re.M))


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed: it is part of the extra test on x86-64")
    done = subprocess.run([hadolint, str(FILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("extras", [DEFAULTS["EXTRAS"], *re.findall(r"--build-arg=EXTRAS=([\w,]*)", TEXT)])
def test_every_image_that_the_file_names_installs_extras_that_there_are(fakes, extras):
    fakes.make("pip", "")
    subprocess.run(["sh", "-c", INSTALL], env=fakes.environment(EXTRAS=extras), check=True, cwd=ROOT)
    (call,) = fakes.calls()
    assert call == [
        "pip",
        "install",
        "--no-cache-dir",
        "-c",
        "requirements/tested.txt",
        "-e",
        f".[{extras}]" if extras else ".",
    ]
    assert (ROOT / call[4]).is_file()
    assert set(filter(None, extras.split(","))) <= set(metadata("mmkp_jax").get_all("Provides-Extra"))


def test_the_image_starts_a_command_that_setup_installs():
    (entry,) = json.loads(re.search(r"^ENTRYPOINT (.*)$", TEXT, re.M)[1])
    assert shutil.which(entry, path=str(Path(sys.executable).parent)), f"{entry} is no command of the package"


@pytest.mark.nightly
def test_the_install_runs_in_a_fresh_environment_and_its_command_answers(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    shutil.copytree(ROOT, tmp_path / "mmkp_jax", ignore=shutil.ignore_patterns("runs", ".git", "*.egg-info"))
    path = f"{tmp_path / 'env/bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "EXTRAS": ""}
    del environment["PYTHONPATH"]
    subprocess.run(["sh", "-c", INSTALL], env=environment, cwd=tmp_path / "mmkp_jax", check=True)
    done = subprocess.run(["mmkp", "main", "--help"], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "--workdir" in done.stdout
