"""Trackio: a SQLite file in the work directory, unless `TRACKIO_DIR` or `TRACKIO_SPACE_ID` says otherwise."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmkp_jax.training.trackers.adapter import PROJECT, TrackedRun


class TrackioRun:
    """A run of Trackio, found again by its name, which the run's id makes unique."""

    def __init__(self, run: TrackedRun):
        os.environ.setdefault("TRACKIO_DIR", str(run.folder.absolute()))  # read when trackio is imported
        import trackio

        self._trackio, self._id = trackio, run.id
        with _quiet():
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=f"{run.name}-{run.id}",
                config=dict(run.config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def summarise(self, step: int, scores: Mapping[str, float], files: Sequence[Path]) -> None:
        self.log(step, scores)
        artifact = self._trackio.Artifact(f"results-{self._id}", type="results")
        for file in files:
            artifact.add_file(str(file))
        with _quiet():
            self._run.log_artifact(artifact)

    def close(self, *, is_complete: bool) -> None:
        with _quiet():
            self._trackio.finish()


def _quiet() -> contextlib.AbstractContextManager:
    return contextlib.redirect_stdout(open(os.devnull, "w"))


begin = TrackioRun
