"""Every command of docs/ is run, or its block says why not. What is run begins with the first run, on pocket."""

import contextlib
import importlib
import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.small_pocket import run_here, small_pocket
from tests.test_docs import FENCE, PAGES, UNCHECKED, words_of

ORDER = ("first_run.md", "your_posts.md", "evaluate.md", "teach.md", "gamma.md", "lora.md", "export.md")
"""The pages that have commands to run: a later one uses what an earlier one made."""

MARK = re.compile(r"<!-- not run: \S.* -->\n *\Z")
"""What stands before a block that is not run."""


def blocks_of(text: str) -> list[tuple[str, bool]]:
    """The blocks of commands of a page, each with whether it is marked as not run."""
    return [
        (found[2], bool(MARK.search(text[: found.start()]))) for found in FENCE.finditer(text) if found[1] == "bash"
    ]


def lines_to_run(page: str) -> list[str]:
    """The commands of a page that are run, a line each."""
    return [line.strip() for block, is_marked in blocks_of(PAGES[page]) if not is_marked for line in block.splitlines()]


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"README.md"}))
def test_every_block_is_run_or_says_why_not(page):
    assert bool(lines_to_run(page)) == (page in ORDER)


def test_a_line_that_is_run_does_not_say_that_nothing_checks_it():
    assert [line for page in ORDER for line in lines_to_run(page) if line.endswith(UNCHECKED)] == []


def test_a_mark_is_read_only_right_before_its_block():
    block = "```bash\npython -m x\n```\n"
    assert blocks_of(f"<!-- not run: a GPU -->\n{block}\n{block}") == [
        ("python -m x\n", True),
        ("python -m x\n", False),
    ]
    assert blocks_of(f"<!-- not run:  -->\n{block}") == [("python -m x\n", False)]


def test_the_first_run_and_what_follows_it(tmp_path, capsys):
    """As printed, in this process, except for the run itself: twelve steps on a few of pocket's posts."""
    pocket = small_pocket(tmp_path / "runs")
    first, *others = lines_to_run("first_run.md")
    assert "--workdir=runs/first" in shlex.split(first)
    done = run_here(pocket, f"--workdir={tmp_path / 'runs/first'}", "--config.total_steps=3")
    assert done.returncode == 0, done.stderr
    with contextlib.chdir(tmp_path):
        for line in others:
            (words,) = words_of(line)
            assert words[:2] == ["python", "-m"]
            status = importlib.import_module(words[2]).main(words[3:])
            assert not status, (line, capsys.readouterr().err)
    printed = capsys.readouterr().out
    assert "F1@1" in printed
    made = {each.name for each in (tmp_path / "runs").iterdir()}
    assert {"first", "first.jsonl", "first.html", "first-model"} <= made
    assert (tmp_path / "runs/first-model/model.safetensors").exists()


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """A folder with what a clone has that commands name, and the environment to run them in."""
    folder = tmp_path_factory.mktemp("newcomer")
    for name in ("benchmarks", "configs", "launch", "requirements"):
        (folder / name).symlink_to(ROOT / name)
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    return folder, {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


@pytest.mark.nightly
@pytest.mark.parametrize("page", ORDER)
def test_the_commands_of_a_page_run_as_printed(newcomer, page):
    """In the order of `ORDER`: a later page needs what the earlier ones made."""
    folder, environment = newcomer
    for line in lines_to_run(page):
        done = subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
