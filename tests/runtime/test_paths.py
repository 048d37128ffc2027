"""A bucket or a URL where a local path belongs is refused by every command, and nothing is written."""

import importlib
import os
from pathlib import Path

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.paths import check_local, scheme_of

SCHEMES = [
    "gs://bkt/data",
    "s3://bkt/data",
    "hdfs://host/data",
    "https://example.com/x",
    "file:///tmp/x",
    " gs://x",
    "gs:x/y",
]


@pytest.mark.parametrize("path", SCHEMES)
@pytest.mark.parametrize("made", [str, Path])
def test_a_scheme_is_refused_for_every_type_of_path(path, made):
    with pytest.raises(InputError, match=r"^--out: \w+:// is not a local path"):
        check_local(made(path), "--out")


@pytest.mark.parametrize("path", ["data", "/data/x", "C:/data", "a:b", "s3:test", "data/mine:1", "./gs:/x", "x/y://z"])
def test_local_paths_pass(path):
    assert scheme_of(path) is None


COMMANDS = {
    "prepare": ["--raw={}", "--images={}", "--out={}"],
    "describe": ["--data={}", "--out={}"],
    "score": ["--predictions={}", "--posts={}", "--json={}", "--train={}", "--ocr={}", "--compare={}"],
    "report": ["--out={}", "--data={}"],
    "predict": ["--data={}", "--posts={}", "--images={}", "--image={}", "--out={}", "--store={}"],
    "export": ["--workdir={}", "--out={}"],
    "main": ["--workdir={}"],
    "judge": ["--posts={}", "--out={}"],
    "teach": ["--posts={}", "--out={}", "--store={}"],
}


@pytest.mark.parametrize("command,flag", [(name, flag) for name, flags in COMMANDS.items() for flag in flags])
def test_every_command_refuses_a_scheme_and_writes_nothing(command, flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert importlib.import_module(f"mmkp_jax.{command}").main([flag.format("gs://bkt/x")]) == 2
    message = capsys.readouterr().err
    assert "gs://" in message and message.count("\n") == 1
    assert os.listdir(tmp_path) == []
