"""Weights & Biases. Offline, unless `WANDB_MODE` says otherwise; `wandb sync` sends an offline run's files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmkp_jax.training.trackers.adapter import PROJECT, TrackedRun

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported

import wandb


class WandbRun:
    """A run of W&B, which gets nothing about the machine but what the run itself logs."""

    def __init__(self, run: TrackedRun):
        run.folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            console="off",
            disable_git=True,
            disable_job_creation=True,
            reinit="create_new",
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._id = run.id
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.id,
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            config=dict(run.config),
            settings=settings,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def summarise(self, step: int, scores: Mapping[str, float], files: Sequence[Path]) -> None:
        self._run.summary.update({**scores, "test/step": step})
        artifact = wandb.Artifact(f"results-{self._id}", type="results")
        for file in files:
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def close(self, *, is_complete: bool) -> None:
        self._run.finish(exit_code=0 if is_complete else 1)


begin = WandbRun
