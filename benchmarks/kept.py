"""Keeps what complete runs of `benchmarks.strategies` measured, so that other machines and later days add seeds to it.

A run's scores, its modes and its config go into `benchmarks/results/strategies/BED/RUN.json`, a few kB that are
committed. `BED` names what runs must share to stand next to each other: the posts, the student's weights, and every
setting but the seed and those that make a system what it is.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gates import own_scores
from benchmarks.jobs import ROOT
from benchmarks.machine import describe_machine
from benchmarks.modes import read_modes
from benchmarks.systems import STAGED
from mmkp_jax.errors import InputError
from mmkp_jax.pages.report.runs import SPLIT, ReportRun
from mmkp_jax.pages.tables import Table, count
from mmkp_jax.runtime.atomic import write_json
from mmkp_jax.runtime.json_files import read_object
from mmkp_jax.training.contents import CONTENTS_FILE

if TYPE_CHECKING:
    from benchmarks.scored import Result

KEPT = ROOT / "benchmarks" / "results" / "strategies"

OWN = ("seed", "strategy", "decision", "gamma", "gamma_mode", "gamma_share")
"""Settings that differ between the systems and the seeds of one bed."""

GROUPS = ("all", "seen", "unseen", "absent")

NOTHING = "–"


def bed_of(run: ReportRun) -> str:
    """The name of a run's bed, ten hexadecimal digits; not for the staged run, whose second half has other weights.

    Raises:
        InputError: the run did not record what it began with.
    """
    shared = {name: value for name, value in run.config.items() if name not in OWN}
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode())
    began_with = read_object(run.path / CONTENTS_FILE, "remove the run, or give another --runs")
    digest.update("".join(began_with.text(name) for name in ("model.path", "data.path")).encode())
    for answer in run.answers:
        digest.update(json.dumps([answer.id, answer.keyphrases]).encode())
    return digest.hexdigest()[:10]


def keep(results: Mapping[str, "Result"], folder: Path = KEPT) -> Path | None:
    """Writes the records of these runs, over those of the same run; returns the bed's folder, None without runs.

    Raises:
        InputError: the runs are not of one bed.
    """
    single = [run for system, result in results.items() if system != STAGED for run in result.runs]
    if not single:
        return None
    beds = {bed_of(run): run.path for run in single}
    if len(beds) > 1:
        what = f"runs differ in more than their systems: {', '.join(path.name for path in beds.values())}"
        raise InputError(what, str(single[0].path.parent), "give another --runs")
    bed = folder / next(iter(beds))
    bed.mkdir(parents=True, exist_ok=True)
    for system, result in results.items():
        for seed, run in zip(result.seeds, result.runs, strict=True):
            write_json(bed / f"{system}-seed{seed}.json", record_of(result, seed, run))
    return bed


def record_of(result: "Result", seed: int, run: ReportRun) -> dict[str, Any]:
    """What is kept of one run; `modes` is None while its predictions with each mode are missing."""
    one = result._replace(
        seeds=[seed], runs=[run], scored=_only(result, result.runs.index(run)), reference_minus_this={}, intervals={}
    )
    modes = read_modes(one)
    return {
        "system": result.system,
        "seed": seed,
        "step": run.step,
        "revision": run.environment.get("revision"),
        "packages": run.environment.get("packages"),
        "machine": describe_machine(),
        "config": run.config,
        SPLIT: one.scored.scores[0],
        "by_kind": own_scores(run.comparisons),
        "modes": modes and {group: each and each.scores for group, each in modes.items()},
    }


def kept_tables(results: Mapping[str, "Result"], folder: Path = KEPT) -> list[Table]:
    """F1@1 of every kept run of these runs' bed, in one table: means and deviations over seeds; none without any."""
    runs = [run for system, result in results.items() if system != STAGED for run in result.runs]
    bed = folder / bed_of(runs[0]) if runs else folder
    by_system: dict[str, list[Mapping[str, Any]]] = {}
    for file in sorted(bed.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        by_system.setdefault(record["system"], []).append(record)
    rows = [
        (system, count(len(found)), *(_spread([each[SPLIT][group] for each in found]) for group in GROUPS))
        for system, found in by_system.items()
    ]
    note = "F1@1 in percent, mean ± standard deviation between seeds"
    return [Table(f"Kept in {bed.name}", ("", "runs", *GROUPS), rows, (note,))] if rows else []


def _spread(scores: Sequence[Mapping[str, float] | None]) -> str:
    if None in scores:
        return NOTHING
    values = [100 * each["f1@1"] for each in scores]
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def _only(result: "Result", n: int) -> Any:
    """The scored system with its run number `n` alone."""
    return type(result.scored)(*(field[n : n + 1] for field in result.scored))
