"""What is known of a run after its end: that it has finished, and what can be done with it next."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.atomic import write_json
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.hosts import is_writer, true_on_all_hosts
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


def is_over(workdir: Path, config: Mapping[str, Any]) -> bool:
    """Whether all hosts find a run of this very config that has come to its end, which the first one says."""
    if not true_on_all_hosts(has_finished(workdir, config)):
        return False
    if is_writer():
        what = "this run has finished, and nothing is done; to train on, give more steps and --extend"
        print(for_terminal(f"{workdir}: {what}"), report_line(workdir), sep="\n")
    return True


def report_line(workdir: Path) -> str:
    """The line that names the run's report."""
    return for_terminal(f"report: {workdir / 'report.html'}")


def next_commands(workdir: Path, config: ConfigDict, experiment: Sequence[str]) -> list[str]:
    """Lines with what can be done next, each a command to paste.

    Args:
        config: the run's own.
        experiment: the flags that name it.
    """
    folder, text = shlex.quote(str(workdir)), "--text='made it to silver pier at last !'"
    if config.task == "baseline":
        return ["try it:", f"  {command_line('predict')} --model={folder} {text}"]
    trains = config.strategy != "zeroshot"  # which leaves a model
    other = "sft" if config.strategy != "sft" else "dyncot"
    second = shlex.quote(f"{workdir}-{other}")
    kept = [each for each in experiment if not each.startswith("--config.strategy=")]
    again = shlex.join([*kept, f"--config.strategy={other}"])
    compared = shlex.quote(f"{workdir}-and-{other}.html")
    model = f"--model={folder}" if trains else f"--model={shlex.quote(config.model.path)} --zero_shot"
    commands = {
        "try it": f"{command_line('predict')} {model} {text} --explain",
        "on a page": f"{command_line('serve')} {model}",
        f"next to {other}": f"{command_line('main')} {again} --workdir={second}",
        "compare": f"{command_line('report')} {folder} {second} --out={compared}",
    }
    if trains:
        exported = shlex.quote(f"{workdir}-exported")
        commands["export it"] = f"{command_line('export')} --workdir={folder} --out={exported}"
    return [line for what, command in commands.items() for line in (f"{what}:", f"  {command}")]
