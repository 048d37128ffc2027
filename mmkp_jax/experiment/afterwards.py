"""What is known of a run after its end: that it has finished, and what can be done with it next."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.atomic import write_json
from mmkp_jax.runtime.json_files import read_object
from mmkp_jax.runtime.program import command_line

FINISHED = "finished.json"
"""Written last, with the `config` that the run was started with."""

WRITTEN = ("results.json", "report.html")
"""A run that lacks one of these has to evaluate again."""


def finish(workdir: Path, config: Mapping[str, Any]) -> None:
    """Notes that a run of this config, as it was given, has come to its end."""
    write_json(workdir / FINISHED, {"config": config}, sort_keys=True)


def has_finished(workdir: Path, config: Mapping[str, Any]) -> bool:
    """Whether a run of this very config has come to its end here, and what it wrote is there."""
    try:
        before = read_object(workdir / FINISHED).content.get("config")
    except InputError:
        return False
    return before == config and all((workdir / name).exists() for name in WRITTEN)


def next_commands(workdir: Path, strategy: str, experiment: Sequence[str]) -> list[str]:
    """Lines with what can be done next, each a command to paste.

    Args:
        strategy: the run's own; it is compared with another.
        experiment: the flags that name its config.
    """
    folder = shlex.quote(str(workdir))
    other = "sft" if strategy != "sft" else "dyncot"
    second = shlex.quote(f"{workdir}-{other}")
    kept = [each for each in experiment if not each.startswith("--config.strategy=")]
    again = shlex.join([*kept, f"--config.strategy={other}"])
    compared = shlex.quote(f"{workdir}-and-{other}.html")
    commands = {
        "try it": f"{command_line('predict')} --model={folder} --text='what a goal , river town !' --explain",
        "on a page": f"{command_line('serve')} --model={folder}",
        f"next to {other}": f"{command_line('main')} {again} --workdir={second}",
        "compare": f"{command_line('report')} {folder} {second} --out={compared}",
        "export it": f"{command_line('export')} --workdir={folder} --out={shlex.quote(f'{workdir}-exported')}",
    }
    return [line for what, command in commands.items() for line in (f"{what}:", f"  {command}")]
