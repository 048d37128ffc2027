"""A run's work directory: its config, environment and metrics, and what may differ on resume."""

import json
import platform
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

from mmkp_jax.data.size_index import LeftOut
from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import CONFIG
from mmkp_jax.runtime import lock
from mmkp_jax.runtime.atomic import part_of, write_bytes, write_json, write_text
from mmkp_jax.runtime.field_types import LENGTH
from mmkp_jax.runtime.fields import leaves, may_differ, names_by_resume
from mmkp_jax.runtime.json_files import ends_a_line, parse_object, read_object
from mmkp_jax.runtime.limits import LINE
from mmkp_jax.runtime.lines import lines_of
from mmkp_jax.runtime.old_configs import upgrade
from mmkp_jax.training.contents import CONTENT_FIELDS
from mmkp_jax.training.trackers.reporting import Trackers

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "numpy", "pillow")


Same = Callable[[str, Any, Any], bool]
"""A function that says whether a field's old and new value name the same content."""


def check_claim(workdir: Path, config: Mapping[str, Any], *, extend: bool = False, same: Same | None = None) -> bool:
    """Whether the directory holds a run of the same config; writes nothing.

    Args:
        extend: the run may now have another length.
        same: compares the fields that name files or folders; without it another path is another config.

    Raises:
        InputError: it holds a run of another config (the keys are named), or something else.
    """
    file = workdir / CONFIG
    if not file.exists():
        ours = {*lock.LOCK_FILES, part_of(file).name, "config.part"}
        if workdir.exists() and any(each.name not in ours for each in workdir.iterdir()):
            raise InputError(
                "this folder holds something other than a run", str(workdir), "give a new folder, or a run's own"
            )
        return False
    old = read_object(file, "this is not the config of a run: give a new folder, or a run's own")
    old.text("strategy")
    before, now = (dict(leaves(upgrade(each))) for each in (old.content, json.loads(json.dumps(config))))
    changed = [
        key
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
        and not may_differ(key, extend=extend)
        and not (same and same(key, before.get(key), now.get(key)))
    ]
    if changed:
        extending = ", or --extend" * set(changed).issubset(names_by_resume(LENGTH))
        again = " ".join(shlex.quote(f"--config.{key}={before[key]}") for key in changed if key in before)
        changes = ", ".join(f"{key} (was {before.get(key)!r}, now {now.get(key)!r})" for key in changed)
        raise InputError(
            f"the run there has another config: {changes}",
            str(workdir),
            f"give another --workdir, or the same config{f' ({again})' * bool(again)}{extending}",
        )
    return True


def claim(workdir: Path, config: Mapping[str, Any], *, extend: bool = False, same: Same | None = None) -> bool:
    """Creates the directory, or resumes in it; True where it holds a run of the same config.

    Raises:
        InputError: as `check_claim`.
    """
    resumed = check_claim(workdir, config, extend=extend, same=same)
    if not resumed or extend:
        write_json(workdir / CONFIG, config, sort_keys=True)
    elif same:  # the paths as they are now
        before, now = upgrade(read_object(workdir / CONFIG).content), dict(leaves(config))
        write_json(workdir / CONFIG, _with_paths(before, now), sort_keys=True)
    return resumed


def _with_paths(config: dict[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the paths of `now`, which name the same content."""
    for field in CONTENT_FIELDS:
        *parents, name = field.split(".")
        part = config
        for parent in parents:
            part = part[parent]
        if field in now:
            part[name] = now[field]
    return config


def write_environment(workdir: Path) -> None:
    """Writes versions, devices and revision of this start as `environment.json`."""
    environment = {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
        "revision": revision(),
    }
    write_json(workdir / "environment.json", environment)


def revision() -> str | None:
    """Revision of the code, where it is in a git repository."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None


def write_left_out(workdir: Path, left_out: Sequence[LeftOut]) -> None:
    """Writes the posts that are not trained on, a line each with the reason, as `rejects.jsonl`."""
    lines = [json.dumps({"id": each.id, "reason": each.reason}, ensure_ascii=False) + "\n" for each in left_out]
    write_text(workdir / "rejects.jsonl", "".join(lines))


def truncate_log(file: Path, step: int) -> None:
    """Removes the lines of later steps from JSON Lines, and a last one that a kill cut off; a missing file is left so.

    Raises:
        InputError: another line is damaged.
    """
    if not file.exists():
        return
    kept, fault = [], None
    for line in lines_of(file):
        if fault:
            raise fault
        where = f"{file}:{line.number}"
        if line.too_long:
            raise LINE.error(where)
        try:
            entry = parse_object(line.content, where, "remove the line, or restore the file; the run then resumes")
            if entry.integer("step") <= step:
                kept.append(line.content + b"\n")
        except InputError as error:
            fault = error
    if fault and ends_a_line(file):  # a kill cannot leave a line's end without its start
        raise fault
    write_bytes(file, b"".join(kept))


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events, both truncated to `step` when a run resumes there; and trackers."""

    def __init__(self, workdir: Path, step: int, trackers: Trackers):
        self._file = workdir / "metrics.jsonl"
        truncate_log(self._file, step)
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)
        self._trackers = trackers
        trackers.catch_up()

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Writes one line, and one point of each curve; None is null in the file."""
        line = {"step": step, **{name: value for name, value in metrics.items()}}
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        for name, value in metrics.items():
            if value is not None:
                self._events.add_scalar(name, value, step)
        self._trackers.log(step, metrics)

    def close(self) -> None:
        """Flushes and closes the TensorBoard events."""
        self._events.close()
