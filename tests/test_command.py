"""One program for all commands: its list, its names in messages, quick flags, and experiments by name."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from mmkp_jax.__main__ import commands, main
from mmkp_jax.errors import InputError
from mmkp_jax.runtime.config import read_config, shipped_configs
from mmkp_jax.runtime.interrupts import RESUMED_COMMAND
from mmkp_jax.runtime.program import command_line
from tests.support.paths import ROOT
from tests.test_rooms import COMMANDS

HEAVY = (
    *("jax", "jaxlib", "flax", "optax", "orbax", "grain", "transformers", "tokenizers", "torch"),
    *("tensorflow", "tensorflow_datasets", "array_record", "scipy", "sklearn", "openai", "huggingface_hub"),
)

EVERY = """
import contextlib, io, json, sys
from mmkp_jax.__main__ import commands, main

def call(*arguments):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return main(arguments)
        except SystemExit as end:
            return end.code

heavy = sys.argv[1:]
calls = [(), *((name, flag) for name in commands() for flag in ("--help", "--no_such_flag"))]
print(json.dumps([(each, call(*each), [name for name in heavy if name in sys.modules]) for each in calls]))
"""


@pytest.fixture
def signals():
    """Restores the signal handlers."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_program_lists_its_commands_with_a_line_each(arguments, capsys):
    assert main(arguments) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert dict(lines) == commands() and all(about.strip() for about in commands().values())
    assert set(commands()) == {name for name in COMMANDS if (ROOT / f"mmkp_jax/{name}.py").exists()} - {"__main__"}


@pytest.mark.parametrize(
    "command, nearest", [("plam", "did you mean 'plan'?"), ("errors", "known: "), ("../x", "known: "), ("", "known: ")]
)
def test_an_unknown_command_is_one_line_with_the_nearest(command, nearest, capsys):
    assert main([command, "--help"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"python -m mmkp_jax: unknown command {command!r} (") and nearest in line


def test_a_command_gets_its_flags_and_returns_its_exit_status(capsys):
    assert main(["report", "--out=page.html"]) == 2
    assert "report: no RUN is given" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, orig_argv, expected",
    [
        (["/usr/bin/mmkp", "main"], ["python", "/usr/bin/mmkp", "main"], "mmkp main"),
        ([r"C.exe/mmkp.exe", "main"], [r"C.exe/mmkp.exe", "main"], "mmkp main"),
        (["/x/mmkp_jax/__main__.py"], ["python", "-m", "mmkp_jax", "main"], "python -m mmkp_jax main"),
        (["/x/mmkp_jax/main.py"], ["python", "-m", "mmkp_jax.main"], "python -m mmkp_jax.main"),
        (["-c"], ["python", "-c", "…"], "python -m mmkp_jax.main"),
    ],
)
def test_messages_name_a_command_as_it_was_called(argv, orig_argv, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert command_line("main") == expected


def test_a_signal_while_a_command_is_loaded_ends_the_script_at_once(signals, monkeypatch, capsys):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["mmkp", "report", "--out=page.html"])
    assert main() == 2
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # launchers do not restart a report
    monkeypatch.setattr(sys, "argv", ["mmkp", RESUMED_COMMAND])
    assert main() == 2
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert "mmkp report: no RUN is given" in capsys.readouterr().err


def test_neither_help_nor_a_mistaken_flag_of_any_command_imports_anything_heavy():
    done = subprocess.run([sys.executable, "-c", EVERY, *HEAVY], cwd=ROOT, capture_output=True, text=True)
    (_, listed, _), *calls = found = json.loads(done.stdout)
    assert listed == 0 and len(calls) == 2 * len(commands()), done.stderr
    assert [status for _, status, _ in calls] == [0, 2] * len(commands())
    assert not [(call, heavy) for call, _, heavy in found if heavy]


def test_every_experiment_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    experiments = {file.stem for file in (ROOT / "configs").glob("*.py")} - {"__init__", "base", "presets"}
    baselines = {file.stem for file in (ROOT / "configs/baselines").glob("*.py")} - {"__init__", "base"}
    assert shipped_configs().keys() == experiments | baselines and not experiments & baselines
    presets, flags = ":model=qwen2_5_vl_3b,data=mmkp_v2", ["--config.gamma=0.3"]
    by_file = {name: read_config(f"configs/{name}.py{presets}", flags) for name in experiments}
    monkeypatch.chdir(tmp_path)
    assert {name: read_config(f"{name}{presets}", flags) for name in experiments} == by_file
    assert {read_config(f"{name}:data=mmkp_v2", tasks=["baseline"]).strategy for name in baselines} == baselines


def test_a_copy_of_an_experiment_works_anywhere_and_a_file_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", str(ROOT))])
    monkeypatch.delitem(sys.modules, "configs", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "configs/sft.py", "mine.py")
    shutil.copy(ROOT / "configs/sft.py", "dyncot")
    assert read_config("mine.py") == read_config("dyncot") == read_config("sft")


def test_an_unknown_name_lists_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = "cot, dyncot, multitask, sft, zeroshot, cmkp, embeddings, one2seq"
    with pytest.raises(InputError, match=rf"no config 'dincot' \(did you mean 'dyncot'\?\); give a file, .* {known}"):
        read_config("dincot")
    (tmp_path / "folder").mkdir()
    named = {"base": "no config 'base'", "configs/dyncot.py": "no file 'configs/dyncot.py'", "": "no file ''"}
    for none, what in (named | {"presets": "no config 'presets'", "folder": "'folder' is a folder"}).items():
        with pytest.raises(InputError, match=rf"{what}.*; give a file, or one of {known}"):
            read_config(none)
