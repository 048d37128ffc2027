"""Reads and checks the files of a run; an error names the file, the line and the field.

Legend: `N` posts of the test split, `S` steps, `D` model width.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.metric import FURTHER, PROTOCOL, Scores
from mmkp_jax.evaluation.predictions import Prediction, prediction_of
from mmkp_jax.runtime.json_files import Fields, is_number, read_object, read_rows
from mmkp_jax.runtime.limits import FILE
from mmkp_jax.runtime.old_configs import upgrade

RESTORE = "restore the file, or run again"
"""The hint for a damaged file."""

ARRAYS = {"losses": ("epoch_N", "post_N", "nll_sft_N"), "hidden": ("id_N", "hidden_ND")}
"""Files `{name}.npz` that a run may have, and their arrays.

losses: one row for each post of each epoch: the epoch, the post's number and its SFT loss before its step, in nats a
label. hidden: for each test post its id, and the hidden state of its prompt's last token.
"""

OPTIONAL = {"losses": ("has_cot_N", "on_cot_N")}
"""Further arrays, which runs of earlier versions do not have: whether the post has a chain of thought, and whether it
was put on it (-1 where that is unknown)."""

ARRAY_DTYPES = {
    "epoch_N": "iu",
    "post_N": "iu",
    "nll_sft_N": "f",
    "has_cot_N": "b",
    "on_cot_N": "i",
    "id_N": "US",
    "hidden_ND": "iuf",
}
"""The kinds of numpy dtypes that each array may have."""


def read_config_file(file: Path) -> Mapping[str, Any]:
    """A run's config, upgraded to current fields; those that the report reads are checked."""
    config = read_object(file, "give a work directory of main")
    config = config._replace(content=upgrade(config.content))
    config.text("strategy")
    if config.text("task", "vlm") != "baseline":
        config.text("decision"), config.text("gamma_mode")
        config.number("gamma"), config.number("gamma_share")
    config.object("model").text("path", "")
    data = config.object("data")
    data.text("path", ""), data.text("train_keyphrases", "")
    return config.content


def read_environment(file: Path) -> Mapping[str, Any]:
    """Software and devices from `environment.json`; empty if there is no such file."""
    if not file.exists():
        return {}
    environment = read_object(file, RESTORE)
    environment.texts("devices", ()), environment.text("device_kind", "")
    packages = environment.object("packages", {})
    for name in packages.content:
        packages.text(name)
    if environment.content.get("revision") is not None:
        environment.text("revision")
    return environment.content


def read_scores(file: Path) -> Scores | None:
    """The scores in `results.json`; None if there is no such file."""
    return read_score_groups(read_object(file, RESTORE)) if file.exists() else None


def read_comparisons(file: Path) -> Mapping[str, Mapping[str, Scores]]:
    """`scores` and `by_kind` of every system in `comparisons.json`; empty if there is no such file."""
    if not file.exists():
        return {}
    kinds = read_object(file, RESTORE)
    return {
        kind: {name: read_score_groups(kinds.object(kind).object(name)) for name in kinds.object(kind).content}
        for kind in kinds.content
    }


def read_score_groups(groups: Fields) -> Scores:
    """Scores by group, written by `score --json` or a run; other fields (`NO_GROUPS`) are ignored."""
    found: dict[str, dict[str, float] | None] = {}
    for name, content in groups.content.items():
        if content is None:
            found[name] = None
        elif name not in NO_GROUPS:
            group = groups.object(name)
            metrics = (*PROTOCOL, *(metric for metric in FURTHER if metric in group.content))
            found[name] = {"n": group.integer("n"), **{metric: group.number(metric) for metric in metrics}}
    return found


NO_GROUPS = ("forms", "answers", "semantic", "reading", "tokenised", "comparison", "modes")
"""Fields of `score --json` and `results.json` that are not groups."""


def read_answers(file: Path) -> list[Prediction]:
    """A run's predictions, each for another post."""
    answers: dict[str, Prediction] = {}
    for row in read_rows(file, "predict the posts again"):
        answer = prediction_of(row)
        if answer.id in answers:
            raise InputError(f"the post {answer.id!r} is in an earlier line too", row.where, row.hint)
        answers[answer.id] = answer
    return list(answers.values())


def read_metrics(file: Path) -> dict[str, np.ndarray]:
    """Arrays [S] by name from `metrics.jsonl`, NaN for values that were not finite; empty if nothing was trained."""
    if not file.exists():
        return {}
    rows = []
    for row in read_rows(file, RESTORE, cut_off=True):
        row.integer("step")
        for name, value in row.content.items():
            if value is not None and not is_number(value):
                row.refuse(name, "a finite number or null")
        rows.append(row.content)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name) for row in rows], np.float64) for name in names}  # None is NaN


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of `ARRAYS`, with those of `OPTIONAL` that it has, all of the same length."""
    names = ARRAYS[file.stem]
    hint = f"write it with {', '.join(names)}, or remove it"
    arrays = _reading(file, hint, lambda: _load(file, names, OPTIONAL.get(file.stem, ())))
    for name, array in arrays.items():
        axes = len(name.rpartition("_")[2])
        if array.ndim != axes or array.dtype.kind not in ARRAY_DTYPES[name] or 0 in array.shape[1:]:
            raise InputError(f"{name} is {array.dtype}{list(array.shape)}, not as a run writes it", str(file), hint)
    if (epochs := arrays.get("epoch_N", np.zeros(0))).size and not 0 <= epochs.min() <= epochs.max() < len(epochs):
        raise InputError(f"epoch_N has {epochs.min()} to {epochs.max()}, not as a run writes it", str(file), hint)
    if len({len(each) for each in arrays.values()}) > 1:
        raise InputError("its arrays are of different lengths", str(file), f"write {', '.join(names)} a row a post")
    return arrays


def _load(file: Path, names: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as stored:
        unpacked = sum(each.file_size for each in stored.infolist())
    if unpacked > FILE.bytes():
        raise FILE.error(str(file), unpacked)
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in (*names, *(each for each in optional if each in stored))}


def _reading(file: Path, hint: str, read: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    try:
        return read()
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise errors of many classes for damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"cannot be read ({reason[:200]})", str(file), hint) from None
