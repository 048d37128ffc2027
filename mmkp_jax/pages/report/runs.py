"""Reads runs from their work directories.

Legend: `N` posts of the test split, `S` steps.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.evaluation.metric import Scores
from mmkp_jax.evaluation.predictions import Prediction
from mmkp_jax.evaluation.table import main_metric
from mmkp_jax.pages.report import paper
from mmkp_jax.pages.report.run_files import (
    ARRAYS,
    read_answers,
    read_arrays,
    read_comparisons,
    read_config_file,
    read_environment,
    read_metrics,
    read_scores,
)
from mmkp_jax.runtime.program import command_line

SPLIT = "test"


@dataclasses.dataclass(frozen=True, eq=False)
class ReportRun:
    """A run as its work directory holds it."""

    name: str
    """The folder's name, or its path if another run has the same name."""
    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: Mapping[str, np.ndarray]
    """Arrays [S] by name, NaN for values that were not finite; empty if nothing was trained."""
    step: int
    """The step that was evaluated."""
    file: Path
    """The predictions file."""
    answers: list[Prediction]
    """The predictions, with the posts in the same order in all runs."""
    results: Scores | None
    comparisons: Mapping[str, Mapping[str, Scores]]
    """`scores` and `by_kind` of every system; empty if the run has none."""
    arrays: Mapping[str, Mapping[str, np.ndarray]]
    """The arrays of `ARRAYS` that the run has."""

    @property
    def metric(self) -> str:
        """The metric of its tables: F1@1 or F1@M."""
        return main_metric(str(self.config.get("best_metric", "")))

    @property
    def strategy(self) -> str:
        """One of `paper.NAMES`."""
        return self.config["strategy"]

    @property
    def decides(self) -> bool:
        """Whether a decision and γ are part of the strategy."""
        return self.strategy in ("dyncot", "decoupled")

    @property
    def system(self) -> str:
        """The strategy's name, in the paper's words where it has some, with a decision that is not the paper's."""
        name = paper.NAMES.get(self.strategy, self.strategy)
        decision = self.config["decision"] if self.decides else "paper"
        return f"{name} ({decision})" if decision != "paper" else name

    @property
    def gamma(self) -> str:
        """γ such as `0.4`, its mode if it is not fixed (`avg`, as the paper calls it, or `ema`), or a share on CoT."""
        mode = self.config["gamma_mode"]
        if mode == "quantile" or self.config["decision"].startswith("random"):
            return f"of {self.config['gamma_share']:.0%}"
        return f"{self.config['gamma']:g}" if mode == "fixed" else "avg" if mode == "mean" else mode


def read_runs(paths: Sequence[Path]) -> list[ReportRun]:
    """The runs in these work directories, which must have predictions of the same posts.

    Raises:
        InputError: one is not a run, has no predictions yet, is damaged, named twice, or of another test split.
    """
    folders = [path.resolve() for path in paths]
    names = [folder.name for folder in folders]
    for number, folder in enumerate(folders):
        if folder in folders[:number]:
            raise InputError("the run is named twice", str(paths[number]), "name it once")
    runs = [
        _read_run(path, folder.name if names.count(folder.name) == 1 else str(path))
        for path, folder in zip(paths, folders, strict=True)
    ]
    return [runs[0], *(_aligned(run, runs[0]) for run in runs[1:])]


def _read_run(path: Path, name: str) -> ReportRun:
    if not path.is_dir():
        known = [file.parent.name for file in path.parent.glob("*/config.json")]
        like = nearest(path.name, known) if known else ""
        raise InputError(f"there is no such run{like}", str(path), "give a work directory of mmkp_jax.main")
    if not (path / "config.json").is_file():
        raise InputError("this folder is not a run: it has no config.json", str(path), "give a work directory of main")
    config = read_config_file(path / "config.json")
    step, file = _newest_predictions(path, config)
    return ReportRun(
        name=name,
        path=path,
        config=config,
        environment=read_environment(path / "environment.json"),
        metrics=read_metrics(path / "metrics.jsonl"),
        step=step,
        file=file,
        answers=read_answers(file) or _refuse_empty(file),
        results=read_scores(path / "results.json"),
        comparisons=read_comparisons(path / "comparisons.json"),
        arrays={file.stem: read_arrays(file) for file in (path / f"{each}.npz" for each in ARRAYS) if file.exists()},
    )


def _refuse_empty(file: Path) -> NoReturn:
    raise InputError("it is empty", str(file), "predict the posts again")


def _newest_predictions(path: Path, config: Mapping[str, Any]) -> tuple[int, Path]:
    """The step and the predictions file of the last evaluation."""
    by_step = {}
    for file in (path / "predictions").glob(f"{SPLIT}-*.jsonl"):
        step = file.stem.removeprefix(f"{SPLIT}-")
        if step.isdecimal():
            by_step[int(step)] = file
    if not by_step:
        predict = f"--model={path} --data={config['data'].get('path', 'DIR')} --split={SPLIT}"
        out = path / "predictions" / f"{SPLIT}-STEP.jsonl"
        hint = (
            "let the run finish"
            if config["strategy"] == "zeroshot"
            else (f"let the training finish, or: {command_line('predict')} {predict} --out={out}")
        )
        raise InputError(f"there are no predictions of the {SPLIT} split yet", str(path), hint)
    return max(by_step.items())


def _aligned(run: ReportRun, first: ReportRun) -> ReportRun:
    """The run with its predictions in the order of the first run's posts."""
    own, wanted = ({answer.id: answer for answer in each.answers} for each in (run, first))
    hint = "give runs that were evaluated on the same posts"
    faults = []
    if missing := [each for each in wanted if each not in own]:
        faults.append(f"lacks {_some(missing)} that {first.name} has")
    if unknown := [each for each in own if each not in wanted]:
        faults.append(f"has {_some(unknown)} that {first.name} lacks")
    if faults:
        raise InputError(f"its test split is a different one: it {' and '.join(faults)}", str(run.path), hint)
    if other := [each for each, answer in wanted.items() if answer.keyphrases != own[each].keyphrases]:
        what = f"its test split is a different one: the keyphrases of {_some(other)} are not those of {first.name}"
        raise InputError(what, str(run.path), hint)
    return dataclasses.replace(run, answers=[own[each] for each in wanted])


def _some(ids: Sequence[str]) -> str:
    listed = ", ".join(map(repr, ids[:3])) + ", …" * (len(ids) > 3)
    return f"{len(ids):,} post{'s' * (len(ids) > 1)} ({listed})"
