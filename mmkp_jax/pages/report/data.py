"""The posts that runs were evaluated on and trained on, from their dataset."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mmkp_jax.data.mixing import Joined
from mmkp_jax.data.numbered import each_of
from mmkp_jax.data.posts import Words, words_of
from mmkp_jax.data.records import open_split, rejected_posts
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.files import seen_keyphrases
from mmkp_jax.pages.report.runs import SPLIT, ReportRun


@dataclasses.dataclass(frozen=True)
class ReportData:
    """The test posts, in the order of the runs' answers, and the training posts."""

    test: list[Words]
    train: list[Words]
    seen: set[str]
    """The training keyphrases."""
    test_image: Callable[[int], bytes]
    """A image's file by its post's number; empty where there is none."""
    train_image: Callable[[int], bytes]


def open_data(runs: Sequence[ReportRun], path: Path | None) -> ReportData | str:
    """The dataset in the folder `path`, else what the first run's config names, or why it cannot be used.

    Of several datasets that were trained on, the first one's test split is that which was evaluated on.

    Raises:
        InputError: `path` is given, and holds no dataset with the posts that the runs answered.
    """
    if path is not None:
        return _open(runs, [path])
    try:
        return _open(runs, [_folder(each.strip()) for each in runs[0].config["data"].get("path", "").split(",")])
    except InputError as error:
        return str(error)


def _folder(named: str) -> Path:
    """Of `FOLDER` or `FOLDER:WEIGHT`."""
    return Path(named if os.path.isdir(named) else named.rpartition(":")[0] or named)


def _open(runs: Sequence[ReportRun], folders: Sequence[Path]) -> ReportData:
    for folder in folders:
        if not os.path.isdir(folder):  # of a name that is too long, pathlib raises
            raise InputError("there is no such folder", str(folder), "name the dataset with --data=DIR")
    path = folders[0]
    split, train = open_split(path, SPLIT), Joined([open_split(folder, "train") for folder in folders])
    number_of, by_id = {}, {post.id: words_of(post) for post in rejected_posts(path, SPLIT)}
    for number, record in enumerate(each_of(split)):
        number_of[record.id], by_id[record.id] = number, words_of(record)
    answers = runs[0].answers
    other = [each.id for each in answers if each.id not in by_id or by_id[each.id].keyphrases != tuple(each.keyphrases)]
    if other:
        what = f"{len(other):,} of {len(answers):,} test posts are not those that the runs answered ({other[0]!r}, …)"
        raise InputError(what, str(path), "name the runs' own dataset with --data=DIR")
    training = [words_of(record) for record in each_of(train)]
    numbers = [number_of.get(each.id) for each in answers]
    return ReportData(
        [by_id[each.id] for each in answers],
        training,
        seen_keyphrases(runs[0].config["data"].get("train_keyphrases", ""), training),
        lambda number: b"" if numbers[number] is None else split[numbers[number]].image,
        lambda number: train[number].image,
    )
