"""Runs, read from their work directories.

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
from mmkp_jax.pages.report.run_files import (
    ARRAYS,
    read_answers,
    read_arrays,
    read_comparisons,
    read_config,
    read_environment,
    read_metrics,
    read_scores,
)
from mmkp_jax.runtime.program import command_line

SPLIT = "test"


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One work directory."""

    name: str
    """Its folder's, where that tells it from the others."""
    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: Mapping[str, np.ndarray]
    """[S] by name; NaN where a value was not finite. Empty where nothing was trained."""
    step: int
    """That was evaluated."""
    file: Path
    """Its predictions."""
    answers: list[Prediction]
    """In the same order of posts in all runs."""
    results: Scores | None
    comparisons: Mapping[str, Mapping[str, Scores]]
    """`scores` and `by_kind` of every system; empty where the run has none."""
    arrays: Mapping[str, Mapping[str, np.ndarray]]
    """Those of `ARRAYS` that are there."""

    @property
    def strategy(self) -> str:
        """One of `paper.NAMES`."""
        return self.config["strategy"]

    @property
    def gamma(self) -> str:
        """`0.4`; the mode where γ is not fixed: `avg` as the paper calls it, or `ema`."""
        mode = self.config["gamma_mode"]
        return f"{self.config['gamma']:g}" if mode == "fixed" else "avg" if mode == "mean" else mode


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in these work directories, whose predictions must be of the same posts.

    Raises:
        InputError: one is no run, has no predictions yet, is damaged, named twice, or of another test split.
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


def _read_run(path: Path, name: str) -> Run:
    if not path.is_dir():
        known = [file.parent.name for file in path.parent.glob("*/config.json")]
        like = nearest(path.name, known) if known else ""
        raise InputError(f"there is no such run{like}", str(path), "give a work directory of mmkp_jax.main")
    if not (path / "config.json").is_file():
        raise InputError("this folder is no run: it has no config.json", str(path), "give a work directory of main")
    config = read_config(path / "config.json")
    step, file = _newest_predictions(path, config)
    return Run(
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
    raise InputError("is empty", str(file), "predict the posts again")


def _newest_predictions(path: Path, config: Mapping[str, Any]) -> tuple[int, Path]:
    """Step and file of the last evaluation."""
    by_step = {}
    for file in (path / "predictions").glob(f"{SPLIT}-*.jsonl"):
        step = file.stem.removeprefix(f"{SPLIT}-")
        if step.isdecimal():
            by_step[int(step)] = file
    if not by_step:
        predict = f"--model={path} --data={config['data'].get('path', 'DIR')} --split={SPLIT}"
        out = path / "predictions" / f"{SPLIT}-STEP.jsonl"
        mend = (
            "let its run come to its end"
            if config["strategy"] == "zeroshot"
            else (f"let its training come to its end, or: {command_line('predict')} {predict} --out={out}")
        )
        raise InputError(f"there are no predictions of the {SPLIT} split yet", str(path), mend)
    return max(by_step.items())


def _aligned(run: Run, first: Run) -> Run:
    """The run, its answers in the order of the first run's posts."""
    own, wanted = ({answer.id: answer for answer in each.answers} for each in (run, first))
    mend = "give runs that were evaluated on the same posts"
    faults = []
    if missing := [each for each in wanted if each not in own]:
        faults.append(f"lacks {_some(missing)} that {first.name} has")
    if unknown := [each for each in own if each not in wanted]:
        faults.append(f"has {_some(unknown)} that {first.name} lacks")
    if faults:
        raise InputError(f"its test split is another: it {' and '.join(faults)}", str(run.path), mend)
    if other := [each for each, answer in wanted.items() if answer.keyphrases != own[each].keyphrases]:
        what = f"its test split is another: the keyphrases of {_some(other)} are not those that {first.name} has"
        raise InputError(what, str(run.path), mend)
    return dataclasses.replace(run, answers=[own[each] for each in wanted])


def _some(ids: Sequence[str]) -> str:
    listed = ", ".join(map(repr, ids[:3])) + ", …" * (len(ids) > 3)
    return f"{len(ids):,} post{'s' * (len(ids) > 1)} ({listed})"
