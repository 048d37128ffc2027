"""A run's work directory: its config, where it ran, and its metrics; and what may differ when it goes on."""

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

from mmkp_jax.data.lengths import LeftOut
from mmkp_jax.errors import InputError
from mmkp_jax.settings import leaves

MAY_DIFFER = (
    *("mesh", "sharding_rules", "attention", "remat", "moments_memory", "accumulation_steps", "data.workers"),
    *("log_every", "checkpoint_every", "eval_every", "eval_batch_size", "export_every"),
    *("keep_checkpoints", "keep_hours", "max_nonfinite", "hang_seconds"),
)
"""Config keys, and beginnings of keys, under which a resumed run computes the same numbers up to rounding."""

LENGTH = ("num_epochs", "total_steps")
"""Config keys that may differ when a run is to become longer."""

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "numpy", "pillow")


def claim(workdir: Path, config: Mapping[str, Any], *, extend: bool = False) -> bool:
    """Makes the directory, or takes it up again; True where a run of the same config began there.

    Args:
        extend: the run may now have another length.

    Raises:
        InputError: it holds a run of another config (the keys are named), or something else.
    """
    file = workdir / "config.json"
    if not file.exists():
        if workdir.exists() and any(each.name != "config.part" for each in workdir.iterdir()):
            raise InputError(
                "this folder holds something other than a run", str(workdir), "give a new folder, or a run's own"
            )
        workdir.mkdir(parents=True, exist_ok=True)
        _write_config(file, config)
        return False
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
        old["strategy"]
    except (ValueError, KeyError, TypeError):
        raise InputError("this is not the config of a run", str(file), "give a new folder, or a run's own") from None
    before, now = dict(leaves(old)), dict(leaves(json.loads(json.dumps(config))))
    changed = [
        key
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith((*MAY_DIFFER, *(LENGTH if extend else ())))
    ]
    if changed:
        told = ", ".join(f"{key} (was {before.get(key)!r}, now {now.get(key)!r})" for key in changed)
        raise InputError(
            f"the run there has another config: {told}",
            str(workdir),
            f"give another --workdir, or the same config{', or --extend' * set(changed).issubset(LENGTH)}",
        )
    if extend:
        _write_config(file, config)
    return True


def _write_config(file: Path, config: Mapping[str, Any]) -> None:
    _write_whole(file, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _write_whole(file: Path, text: str) -> None:
    part = file.with_suffix(".part")  # whole or not at all
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def write_environment(workdir: Path) -> None:
    """Versions, devices and revision of this start, as `environment.json`."""
    environment = {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
        "revision": revision(),
    }
    (workdir / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")


def revision() -> str | None:
    """The code's, where it lies in a git repository."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None


def write_left_out(workdir: Path, left_out: Sequence[LeftOut]) -> None:
    """The posts that are not trained on, a line each with its reason, as `rejects.jsonl`."""
    lines = [json.dumps({"id": each.id, "reason": each.reason}, ensure_ascii=False) + "\n" for each in left_out]
    (workdir / "rejects.jsonl").write_text("".join(lines), encoding="utf-8")


def cut_back(file: Path, step: int) -> None:
    """Takes the lines of later steps out of JSON Lines, and one that a kill cut off; no file is an empty one."""
    if file.exists():
        kept = [line for line in file.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        _write_whole(file, "".join(f"{line}\n" for line in kept))


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events, both cut back to `step` when a run goes on from there."""

    def __init__(self, workdir: Path, step: int):
        self._file = workdir / "metrics.jsonl"
        cut_back(self._file, step)
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """One line, and one point of each curve; what is not finite is null in the file."""
        line = {"step": step, **{name: value for name, value in metrics.items()}}
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        for name, value in metrics.items():
            if value is not None:
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is still in memory."""
        self._events.close()


def _step_of(line: str) -> float:
    """The step of a line; a line that a kill cut off is past every step."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")
