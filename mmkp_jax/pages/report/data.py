"""The posts that runs were evaluated on and trained on, from their dataset."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from mmkp_jax.data.mixing import JoinedRecords
from mmkp_jax.data.numbered import each_of
from mmkp_jax.data.posts import PostText, text_of
from mmkp_jax.data.records import open_split, rejected_posts
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.files import seen_keyphrases
from mmkp_jax.pages.report.runs import SPLIT, ReportRun
from mmkp_jax.runtime.aside import put_aside_of


@dataclasses.dataclass(frozen=True)
class ReportData:
    """The test posts, in the order of the runs' predictions, and the training posts."""

    test: list[PostText]
    train: list[PostText]
    seen: set[str]
    """The keyphrases that count as seen."""
    test_image: Callable[[int], bytes]
    """The image file of a test post by its number; empty if it has no image."""
    train_image: Callable[[int], bytes]
    """The image file of a training post by its number."""


def open_data(runs: Sequence[ReportRun], path: Path | None) -> ReportData | str:
    """The dataset in the folder `path`, or the reason why it cannot be used.

    By default it is the first run's, which may have been put aside since.

    If a run was trained on several datasets, it was evaluated on the first one's test split.

    Raises:
        InputError: `path` is given, and is not a dataset with the posts of the runs' predictions.
    """
    if path is not None:
        return _open(runs, [path])
    try:
        return _open(runs, _own_folders(runs[0]))
    except InputError as error:
        return str(error)


def _own_folders(run: ReportRun) -> list[Path]:
    named = folders_of(run.config["data"].get("path", ""))
    if any(map(put_aside_of, named)):
        from mmkp_jax.inference.run_config import with_put_aside  # here, as it imports jax

        return folders_of(with_put_aside(run.path, ConfigDict(run.config)).data.path)
    return named


def folders_of(paths: str) -> list[Path]:
    """The datasets that a run's `config.data.path` names; the first one's test split is the run's."""
    return [_folder(each.strip()) for each in paths.split(",")]


def _folder(named: str) -> Path:
    """The folder in `FOLDER` or `FOLDER:WEIGHT`."""
    return Path(named if os.path.isdir(named) else named.rpartition(":")[0] or named)


def _open(runs: Sequence[ReportRun], folders: Sequence[Path]) -> ReportData:
    for folder in folders:
        if not os.path.isdir(folder):  # pathlib raises for too long names
            raise InputError("there is no such folder", str(folder), "name the dataset with --data=DIR")
    path = folders[0]
    split, train = open_split(path, SPLIT), JoinedRecords([open_split(folder, "train") for folder in folders])
    number_of, by_id = {}, {post.id: text_of(post) for post in rejected_posts(path, SPLIT)}
    for number, record in enumerate(each_of(split)):
        number_of[record.id], by_id[record.id] = number, text_of(record)
    answers = runs[0].answers
    other = [each.id for each in answers if each.id not in by_id or by_id[each.id].keyphrases != tuple(each.keyphrases)]
    if other:
        what = f"{len(other):,} of {len(answers):,} test posts are not those of the runs' predictions ({other[0]!r}, …)"
        raise InputError(what, str(path), "name the runs' own dataset with --data=DIR")
    training = [text_of(record) for record in each_of(train)]
    numbers = [number_of.get(each.id) for each in answers]
    return ReportData(
        [by_id[each.id] for each in answers],
        training,
        seen_keyphrases(runs[0].config["data"].get("train_keyphrases", ""), training),
        lambda number: b"" if numbers[number] is None else split[numbers[number]].image,
        lambda number: train[number].image,
    )
