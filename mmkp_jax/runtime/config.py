"""A config from the flags that name it: `--config=FILE|NAME[:preset,…] [--config.key=value …]`."""

import ast
import importlib
import inspect
import runpy
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmkp_jax.errors import InputError, all_of, nearest
from mmkp_jax.runtime.field_checks import (
    SEE_HELP,
    Fault,
    check_settings,
    fault_of,
    faults_of,
    frozen_by_hand,
    unknown,
)
from mmkp_jax.runtime.field_types import CONTENT, Field
from mmkp_jax.runtime.fields import FIELDS, field_named, leaves, names_by_resume, table_of
from mmkp_jax.runtime.paths import check_local

SHIPPED = "mmkp_jax.configs"
"""Package of the shipped experiments; imported by name, as they import this room."""
NOT_EXPERIMENTS = ("__init__", "base", "presets")
"""Files next to the experiments that are not experiments."""

NO_BASELINE = "main, predict, score and report work on baselines; export, serve and plan need a model that exports"
"""The hint of a command that takes no baselines."""

BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def default_config(fields: Sequence[Field] = FIELDS) -> ConfigDict:
    """A config with every field at its default; locked, except for the mappings, which take any name."""
    config = ConfigDict()
    for field in fields:
        part, *parents, name = config, *field.name.split(".")
        for parent in parents:
            if parent not in part:
                part[parent] = ConfigDict()
            part = part[parent]
        part[name] = ConfigDict() if isinstance(field.default, dict) else field.default
    config.lock()
    for field in fields:
        if isinstance(field.default, dict):
            _part(config, field.name).unlock()
    return config


def read_config(
    named_by: str, overrides: Sequence[str] = (), fields: Sequence[Field] = FIELDS, tasks: Sequence[str] = ("vlm",)
) -> ConfigDict:
    """The config of FILE|NAME[:preset,…] with the `overrides`, checked.

    Args:
        fields: the table of fields, perhaps with the keys that mappings take; a baseline has its own.
        tasks: what the command takes: vision-language models, or baselines too.

    Raises:
        InputError: there is no such file, preset or field, or values are invalid; all faults are in one line.
    """
    file, presets = locate(named_by)
    try:
        config = _built(file, presets)
    except InputError as error:
        _, faults = parse_overrides(overrides, fields)
        raise all_of([error, *(fault.error() for fault in faults)], SEE_HELP) from None
    if (task := config.get("task", "vlm")) not in tasks:
        raise InputError(f"this is the config of a {task}", named_by, NO_BASELINE)
    fields = table_of(config, fields)
    values, faults = parse_overrides(overrides, fields)
    errors = [fault.error() for fault in faults]
    given = {name for name, _ in values} | {fault.name for fault in faults}
    errors += [fault.error() for fault in faults_of(config.to_dict(), fields) if fault.name not in given]
    if errors:
        raise all_of(errors, SEE_HELP)
    override(config, values)
    check_settings(config, fields)
    if "freeze" in given and config.get("lora_rank"):
        raise frozen_by_hand(config.to_dict()).error()
    _check_paths(config)
    return config


def locate(named_by: str) -> tuple[Path, str]:
    """The file and the presets of FILE[:preset,…]; a NAME that is not a file names a shipped experiment.

    Raises:
        InputError: there is no such file, nor an experiment of that name.
    """
    file, _, presets = named_by.partition(":")
    if Path(file).is_file():
        return Path(file), presets
    known = shipped_configs()
    if file in known:
        return known[file], presets
    if file and Path(file).is_dir():
        what = f"{file!r} is a folder"
    elif not file.isidentifier():
        what = f"there is no file {file!r}"
    else:
        what = f"there is no config {file!r}{nearest(file, known)}"
    raise InputError(what, "--config", f"give a file, or one of {', '.join(known)}")


def shipped_configs() -> dict[str, Path]:
    """Files of the shipped experiments, by name: those that train a model, then the baselines."""
    (folder,) = importlib.import_module(SHIPPED).__path__
    files = [file for kind in ("*.py", "baselines/*.py") for file in sorted(Path(folder).glob(kind))]
    return {file.stem: file for file in files if file.stem not in NOT_EXPERIMENTS}


def parse_overrides(
    overrides: Sequence[str], fields: Sequence[Field] = FIELDS
) -> tuple[list[tuple[str, Any]], list[Fault]]:
    """The fields that `--config.key=value` flags set, as (name, value), and the faults of the others."""
    values, faults = [], []
    for each in overrides:
        name, given, text = each.removeprefix("--config.").partition("=")
        field = field_named(name, fields)
        if field and isinstance(field.default, dict) and name == field.name and given and not text:
            values.append((name, {}))  # the family's own
            continue
        if field is None or (isinstance(field.default, dict) and name != field.name and not _is_key(name)):
            faults.append(unknown(name, text, fields))
            continue
        value = _parsed(field, text) if given else isinstance(field.default, bool) or text
        fault = fault_of(field, name, value)
        if fault:
            faults.append(fault)
        else:
            values.append((name, value))
    return values, faults


def override(config: ConfigDict, values: Sequence[tuple[str, Any]]) -> None:
    """Sets fields of a config to values of their types."""
    for name, value in values:
        section, _, key = name.rpartition(".")
        _part(config, section)[key] = ConfigDict() if value == {} else value


def _built(file: Path, presets: str) -> ConfigDict:
    """What `get_config` of a Python file returns, for the presets."""
    try:
        get_config = runpy.run_path(str(file)).get("get_config")
        if not callable(get_config):
            what = "it defines no function get_config"
        elif not inspect.signature(get_config).parameters and presets:
            what = f"its get_config() takes no presets, and {presets!r} are given"
        else:
            config = get_config(presets) if inspect.signature(get_config).parameters else get_config()
            if isinstance(config, ConfigDict):
                return config
            what = f"its get_config returns {type(config).__name__}, not a ConfigDict"
    except InputError:
        raise
    except Exception as error:  # the code in the user's file may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        what = f"it raises {type(error).__name__}{f' in line {line}' * bool(line)}: {error}"
    raise InputError(what, str(file), "write it like configs/dyncot.py")


def _part(config: ConfigDict, name: str) -> ConfigDict:
    for each in filter(None, name.split(".")):
        config = config[each]
    return config


def _is_key(name: str) -> bool:
    return name.rpartition(".")[2].isidentifier()


def _parsed(field: Field, text: str) -> Any:
    """A flag's text as a value of the field's type; the text itself where it cannot be converted."""
    if isinstance(field.default, bool):
        return BOOLEANS.get(text.lower(), text)
    if None in field.choices and text == "None":
        return None
    if isinstance(field.default, str) or (field.choices and not isinstance(field.default, tuple)):
        return text
    try:
        if isinstance(field.default, tuple):
            return _texts(text)
        return float(text) if isinstance(field.default, float) else int(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _texts(text: str) -> tuple[Any, ...]:
    """A tuple in Python's syntax, or words with commas between them; anything else becomes its only member."""
    try:
        value = ast.literal_eval(text)
    except ValueError:  # not a literal: a plain word
        value = tuple(each.strip() for each in text.split(","))
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _check_paths(config: ConfigDict) -> None:
    if config.task == "baseline":
        for field in ("model.path", *(f"data.{name}" for name in config.data)):
            check_local(dict(leaves(config.to_dict()))[field].strip(), f"config.{field}")
        return
    if not config.model.path.strip():
        raise InputError("it is empty", "config.model.path", f"give {field_named('model.path').about}")
    for name in (*names_by_resume(CONTENT), "data.features"):
        for each in dict(leaves(config.to_dict()))[name].split(","):
            check_local(each.strip(), f"config.{name}")
