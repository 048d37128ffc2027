"""MLflow: a SQLite file in the work directory, unless `MLFLOW_TRACKING_URI` names a server or another store."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmkp_jax.training.trackers.adapter import PROJECT, TrackedRun

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is gone stops a step for seconds,
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # not for minutes

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

TAG = "mmkp_jax.id"
LONGEST = 500
"""Characters of a parameter's value that every version of MLflow takes."""
AT_ONCE = 100
"""Parameters that a call takes."""


class MlflowRun:
    """A run of MLflow, found again by a tag."""

    def __init__(self, run: TrackedRun):
        for name in ("mlflow", "alembic"):  # which tell of each table that they make
            logging.getLogger(name).setLevel(logging.ERROR)
        run.folder.mkdir(parents=True, exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(tracking_uri=uri or f"sqlite:///{run.folder.absolute() / 'mlflow.db'}")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        where = None if uri else (run.folder.absolute() / "artifacts").as_uri()
        place = experiment.experiment_id if experiment else self._client.create_experiment(name, where)
        before = self._client.search_runs([place], f"tags.`{TAG}` = '{run.id}'")
        if before:
            self._id = before[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        self._id = self._client.create_run(place, tags={TAG: run.id}, run_name=run.name).info.run_id
        params = [Param(key, str(value)[:LONGEST]) for key, value in run.config.items()]
        for first in range(0, len(params), AT_ONCE):
            self._client.log_batch(self._id, params=params[first : first + AT_ONCE])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [Metric(allowed(name), value, now, step) for name, value in values.items()])

    def summarise(self, step: int, scores: Mapping[str, float], files: Sequence[Path]) -> None:
        self.log(step, scores)
        for file in files:
            self._client.log_artifact(self._id, str(file))

    def close(self, *, is_complete: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if is_complete else "KILLED")


def allowed(name: str) -> str:
    """A metric's name in the characters that MLflow takes: `f1@1` is `f1_at_1`."""
    return name.replace("@", "_at_")


begin = MlflowRun
