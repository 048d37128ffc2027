"""README's blocks for the time after the first run, typed as they are in a folder that holds one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.small_pocket import environment, run, small_pocket

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block_after(words: str) -> list[str]:
    """The lines of README's first block of commands after these words."""
    return re.search(r"```bash\n(.*?)```", README[README.index(words) :], re.DOTALL)[1].splitlines()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder as a first run leaves it, with few posts, and the experiments beside it."""
    home = tmp_path_factory.mktemp("home")
    (home / "runs").mkdir()
    pocket = small_pocket(home / "runs")
    done = run(pocket, f"--workdir={home / 'runs/dyncot-20260101-000000'}")
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.copytree(ROOT / "configs", home / "configs")
    return home


def typed(home: Path, lines: list[str]) -> str:
    """What a shell prints that is given the lines one after the other; each has to end well."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**environment(), "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-e"], input="\n".join(lines), cwd=home, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.nightly
def test_the_first_run_is_tried_and_exported(home):
    printed = typed(home, block_after("After the first run"))
    assert "written: runs/exported" in printed and (home / "runs/exported/model.safetensors").exists()


@pytest.mark.nightly
def test_own_posts_train_the_pocket_model(home):
    printed = typed(home, block_after("Your own posts on the pocket model"))
    assert (home / "runs/own_sft/results.json").exists() and "report: runs/own_sft/report.html" in printed
