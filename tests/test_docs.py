"""What docs/ tells people to type: flags and presets are known, launchers accept it, files are there."""

import importlib
import re
import shlex
import subprocess

import pytest

from mmkp_jax.runtime.config import read_config
from tests.support.paths import ROOT

DOCS = sorted((ROOT / "docs").glob("*.md"))
LINES = [
    line
    for doc in DOCS
    for block in re.findall(r"```bash\n(.*?)```", doc.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
]
COMMANDS = [line for line in LINES if line.startswith("python -m mmkp_jax.")]
LAUNCHES = [line for line in LINES if line.startswith("launch/")]


def test_docs_have_commands():
    assert len(COMMANDS) > 10 and len(LAUNCHES) > 5


def check(line: str) -> None:
    """Parses a command's flags as it does itself, and reads its config."""
    module, *flags = shlex.split(line.removeprefix("python -m "))
    parsed, overrides = importlib.import_module(module).parser().parse_with_overrides(flags)
    assert getattr(parsed, "config", None) or not overrides
    if named := getattr(parsed, "config", None):
        read_config(named, overrides)


@pytest.mark.parametrize("line", COMMANDS)
def test_flags_and_presets_are_known(line):
    check(line)


@pytest.mark.parametrize("line", LAUNCHES)
def test_launchers_accept_it(line):
    launcher, *flags = shlex.split(line)
    if "--" in flags:
        program = flags[flags.index("--") + 1 :]
        check(shlex.join(["python", "-m", "mmkp_jax.main", *program]))
    before = flags[: flags.index("--")] if "--" in flags else flags
    done = subprocess.run(
        [ROOT / launcher, *before, "--dry_run", *flags[len(before) :]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.name)
def test_files_that_are_named_exist(doc):
    text = doc.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:benchmarks|configs|launch|requirements)/[\w./]+)`", text)
    assert [link for link in links if not (doc.parent / link).exists()] == []
    assert [name for name in named if not (ROOT / name).exists()] == []
