"""Reads and checks the `config.json` of a work directory, for commands that use a run."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import CONFIG
from mmkp_jax.runtime.config import NO_BASELINE
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.field_checks import Fault, faults_of
from mmkp_jax.runtime.field_types import REQUIRED
from mmkp_jax.runtime.fields import table_of
from mmkp_jax.runtime.json_files import abbreviated, read_object
from mmkp_jax.runtime.old_configs import upgrade
from mmkp_jax.training.contents import put_aside_since

_HINT = "restore it: it is the config that the run was started with"


def run_config(workdir: Path, tasks: Sequence[str] = ("vlm",)) -> ConfigDict:
    """The config of the run in a work directory.

    Where something else is now under a path of it, and what the run began with was put aside, the path is that one,
    with a line on stderr.

    Args:
        tasks: what the command takes: runs of vision-language models, or of baselines too.

    Raises:
        InputError: there is none, it cannot be read, or fields are missing, of another type or out of range.
    """
    fields = read_object(workdir / CONFIG, _HINT)
    if "strategy" not in fields.content:
        raise InputError(f"its {CONFIG} is not a run's", str(workdir), "give a run's work directory")
    content = upgrade(fields.content)
    if (task := content.get("task")) not in tasks:
        raise InputError(f"this is the run of a {task}", str(workdir), NO_BASELINE)
    if faults := list(faults_of(content, table_of(content), open_ended=True)):
        raise InputError("; ".join(map(_described, faults)), str(workdir / CONFIG), _HINT)
    try:
        config = ConfigDict(content)
    except (ValueError, TypeError) as error:  # of a field's name
        reason = " ".join(str(error).split())
        raise InputError(f"this is not the config of a run ({reason})", str(workdir / CONFIG), _HINT) from None
    return with_put_aside(workdir, config)


def with_put_aside(workdir: Path, config: ConfigDict) -> ConfigDict:
    """The config with the paths of what was put aside since, and a line on stderr for each.

    Raises:
        InputError: the run's digests cannot be read.
    """
    found = put_aside_since(workdir, config)
    for field, path in found.items():
        print(for_terminal(f"{workdir}: its {field} was put aside since, and is taken from {path}"), file=sys.stderr)
    moved = ConfigDict(config.to_dict())
    moved.update_from_flattened_dict({field: str(path) for field, path in found.items()})
    return moved


def holds_run(workdir: Path) -> bool:
    """Whether a folder has the config of a run, intact or not; a file that is not JSON is not a run's."""
    if not (workdir / CONFIG).is_file():
        return False
    try:
        return "strategy" in read_object(workdir / CONFIG).content
    except InputError:  # reported when it is opened as a model folder
        return False


def holds_baseline(workdir: Path) -> bool:
    """Whether a folder has the config of a baseline's run."""
    return holds_run(workdir) and read_object(workdir / CONFIG).content.get("task") == "baseline"


def _described(fault: Fault) -> str:
    if fault.value is REQUIRED:
        return f"has no {fault.name!r}"
    return f"{fault.name!r} is {abbreviated(fault.value)}, not {fault.expected}"
