"""README's code runs as it stands."""

import importlib
import re
import shlex

import pytest

import configs.base
from mmkp_jax.runtime.config import read_config
from tests.support.paths import ROOT
from tests.support.tiny import write_model

README = ROOT / "README.md"


def test_the_snippet_trains_a_step(tmp_path, monkeypatch, capsys):
    """As printed, but for a model folder and rows of a size that a laptop has."""
    write_model(tmp_path)
    real = configs.base.get_config

    def small():
        config = real()
        config.model.path, config.global_batch_size = str(tmp_path), 1
        config.row.update(tokens=256, labels=128, examples=2, images={"patches": 0, "windows": 0})
        return config

    monkeypatch.setattr(configs.base, "get_config", small)
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"'loss_sft': \d+\.\d+", printed) and re.search(r"'posts': 1\.0", printed)


def test_the_test_command_is_the_one_that_ci_runs():
    ci = (ROOT / ".ci/run").read_text()
    (command,) = re.findall(r"tests:\n\n```bash\n(.*?)\n```", README.read_text(), re.DOTALL)
    assert command in ci.splitlines()
    install = re.search(r"pip install (-c \S+ -e '.\[test,parity\]')", README.read_text())
    assert install and install[1] in ci


COMMANDS = re.findall(r"^python -m mmkp_jax\.(\w+) (.+)$", README.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("command, flags", COMMANDS, ids=[f"{command} {flags}" for command, flags in COMMANDS])
def test_the_flags_and_presets_of_every_command_are_known(command, flags):
    parser = importlib.import_module(f"mmkp_jax.{command}").parser()
    parsed, overrides = parser.parse_with_overrides(shlex.split(flags))
    assert getattr(parsed, "config", None) or not overrides
    if named := getattr(parsed, "config", None):
        read_config(named, overrides)
