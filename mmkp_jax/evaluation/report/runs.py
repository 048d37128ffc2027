"""Runs, read from their work directories.

Legend: `N` posts of the test split, `S` steps.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.evaluation.files import read_lines
from mmkp_jax.evaluation.metric import Scores
from mmkp_jax.evaluation.outputs import FORMS

SPLIT = "test"

ARRAYS = {"losses": ("epoch_N", "post_N", "nll_sft_N"), "hidden": ("id_N", "hidden_ND")}
"""Files `{name}.npz` that a run may hold, and their arrays.

losses: a row for each post of each epoch: the epoch, the post's number and its SFT loss when its step began, in nats a
label. hidden: for each test post its id, and the hidden state of its prompt's last token.
"""


class Answer(NamedTuple):
    """What a run said to a post: a line of its predictions."""

    id: str
    keyphrases: list[str]
    """Those that the post has."""
    predicted: list[str]
    output: str
    form: str


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
    answers: list[Answer]
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
    config = _json(path / "config.json")
    for key in ("strategy", "gamma", "gamma_mode", "model", "data"):
        if key not in config:
            raise InputError(f"it has no {key!r}", str(path / "config.json"), "give a work directory of main")
    step, file = _newest_predictions(path, config)
    return Run(
        name=name,
        path=path,
        config=config,
        environment=_json(path / "environment.json") if (path / "environment.json").exists() else {},
        metrics=_read_metrics(path / "metrics.jsonl"),
        step=step,
        file=file,
        answers=_read_answers(file),
        results=_json(path / "results.json") if (path / "results.json").exists() else None,
        comparisons=_json(path / "comparisons.json") if (path / "comparisons.json").exists() else {},
        arrays={file.stem: _arrays(file) for file in (path / f"{each}.npz" for each in ARRAYS) if file.exists()},
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read ({error})", str(file), "restore it, or run again") from None
    if not isinstance(found, dict):
        raise InputError("is no JSON object", str(file), "restore it, or run again")
    return found


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
            else (f"let its training come to its end, or: python -m mmkp_jax.predict {predict} --out={out}")
        )
        raise InputError(f"there are no predictions of the {SPLIT} split yet", str(path), mend)
    return max(by_step.items())


def _read_answers(file: Path) -> list[Answer]:
    answers: dict[str, Answer] = {}
    for number, line in enumerate(read_lines(file), 1):
        try:
            row = json.loads(line)
            answer = Answer(row["id"], row["keyphrases"], row["predicted"], row["output"], row["form"])
        except (ValueError, KeyError, TypeError, RecursionError):
            answer = None
        if answer is None or not _is_answer(answer) or answer.id in answers:
            what = "the post stands above too" if answer and answer.id in answers else "the line is no prediction"
            raise InputError(what, f"{file}:{number}", "predict the posts again")
        answers[answer.id] = answer
    return list(answers.values())


def _is_answer(answer: Answer) -> bool:
    lists, texts = (answer.keyphrases, answer.predicted), (answer.id, answer.output)
    return (
        all(isinstance(each, list) and all(isinstance(phrase, str) for phrase in each) for each in lists)
        and all(isinstance(each, str) for each in texts)
        and answer.form in FORMS
    )


def _read_metrics(file: Path) -> dict[str, np.ndarray]:
    if not file.exists() or not file.stat().st_size:
        return {}
    rows, lines = [], read_lines(file)
    for number, line in enumerate(lines, 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            if number < len(lines):  # the last may be half written
                raise InputError(f"the line is no metrics ({error})", f"{file}:{number}", "restore the file") from None
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name) for row in rows], np.float64) for name in names}  # None is NaN


def _arrays(file: Path) -> dict[str, np.ndarray]:
    names = ARRAYS[file.stem]
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"cannot be read ({error})", str(file), f"write it with {', '.join(names)}") from None
    if len({len(each) for each in arrays.values()}) > 1:
        raise InputError("its arrays are of different lengths", str(file), f"write {', '.join(names)} a row a post")
    return arrays


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
