"""What a tracker has of a run, read back from the files that it wrote in the run's folder."""

import json
import sqlite3
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Tracked(NamedTuple):
    """A run as a tracker has it."""

    points: Counter[tuple[str, int, float]]
    """(metric, step, value), and how often it is there."""
    config: dict[str, str]
    summary: dict[str, float]
    artifacts: set[str]


def read_wandb(folder: Path, run: str) -> Tracked:
    """Of the records that `wandb sync` would send."""
    from wandb.proto import wandb_internal_pb2

    points, config, summary, artifacts = Counter(), {}, {}, set()
    for file in sorted(folder.glob(f"wandb/offline-run-*/run-{run}.wandb")):
        for data in records_of(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            assert not record.run.run_id or record.run.run_id == run
            config |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
            values = {each.key or each.nested_key[0]: json.loads(each.value_json) for each in record.history.item}
            step = values.pop("_step", record.history.step.num)
            points.update((name, step, value) for name, value in values.items() if not name.startswith("_"))
            for each in record.summary.update:
                summary[each.key or "/".join(each.nested_key)] = json.loads(each.value_json)
            artifacts |= {each.path for each in record.request.log_artifact.artifact.manifest.contents}
            artifacts |= {each.path for each in record.artifact.manifest.contents}
    return Tracked(points, {key: str(value) for key, value in config.items()}, summary, artifacts)


def records_of(content: bytes) -> Iterator[bytes]:
    """The records of a `.wandb` file: LevelDB's log format, after seven bytes of W&B's own.

    A block has 32,768 bytes; a piece of a record has a checksum of four bytes, a length of two, and a kind: 1 whole,
    2 first, 3 middle, 4 last.
    """
    assert content.startswith(b":W&B")
    place, record = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # too short for a piece: zeros
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def read_mlflow(folder: Path, run: str) -> Tracked:
    """Of the database."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("mmkp_jax").experiment_id])
    assert found.data.tags["mmkp_jax.id"] == run and found.info.status == "FINISHED"
    history = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    points = Counter((name, each.step, each.value) for name, points in history.items() for each in points)
    artifacts = {each.path for each in client.list_artifacts(found.info.run_id)}
    summary = {name.replace("_at_", "@"): value for name, value in found.data.metrics.items()}
    return Tracked(points, found.data.params, summary, artifacts)


def read_trackio(folder: Path, run: str) -> Tracked:
    """Of the database, in the folder that the process's first run had."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (found,) = [each for each in trackio.Api().runs("mmkp_jax") if each.name.endswith(run)]
    logs = SQLiteStorage.get_logs("mmkp_jax", found.name)
    points = Counter(
        (name, line["step"], value)
        for line in logs
        for name, value in line.items()
        if name not in ("step", "timestamp")
    )
    joined = "artifact_versions JOIN artifacts ON artifacts.id = artifact_id"
    query = f"SELECT manifest FROM {joined} WHERE name = ? ORDER BY version"
    with sqlite3.connect(SQLiteStorage.get_project_db_path("mmkp_jax")) as database:
        *_, (manifest,) = database.execute(query, [f"results-{run}"]).fetchall()
    artifacts = {Path(each["path"]).name for each in json.loads(manifest)}
    return Tracked(points, found.config, {name: value for name, _, value in points}, artifacts)


READ = {"wandb": read_wandb, "mlflow": read_mlflow, "trackio": read_trackio}
