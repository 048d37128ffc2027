"""The files that `score` reads: posts, training keyphrases, predictions. Every error is one `InputError`."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from mmkp_jax.data.numbered import each_of
from mmkp_jax.data.posts import SEPARATOR, Post, PostText, Reject, read_cmkp, read_jsonl
from mmkp_jax.data.prompts import Mode
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.outputs import FORMS, Reading, merge_outputs, split_keyphrases
from mmkp_jax.evaluation.predictions import all_logprobs, phrase_scores_of, read_mode, read_think
from mmkp_jax.runtime import lines
from mmkp_jax.runtime.json_files import Fields, read_rows

CMKP_ENDING = "_src.txt"
"""The ending of a CMKP file of posts, after the split's name."""


class PredictionFile(NamedTuple):
    """A file's predictions in the posts' order; what is None is not in every line."""

    predictions: list[list[str] | str]
    forms: list[str] | None
    outputs: list[str] | None
    changed: int | None = None
    """Number of posts with other keyphrases under the lenient reading; None under the strict one."""
    think: list[float] | None = None
    """Probability of a chain of thought by post, NaN where it was not measured; None if it was for no post."""
    modes: frozenset[Mode] = frozenset()
    """The modes that posts were predicted with; empty for a file without ids."""
    tokens: list[int] | None = None
    logprobs: list[Sequence[float]] | None = None
    """Log-probabilities of each post's predictions (`predictions.PhraseScores`); None under the lenient reading."""


def read_posts(path: Path, split: str = "test") -> list[Post]:
    """Posts of a JSON Lines file (`.jsonl`), a CMKP file (`{split}_src.txt`), or a prepared dataset (DIR or DIR:SPLIT).

    Args:
        split: the split of a dataset to take if none is named.

    Raises:
        InputError: for the first line that is not a post, since every post must be scored.
    """
    folder, separator, named = str(path).rpartition(":")
    if path.is_dir() or (separator and os.path.isdir(folder)):
        return _prepared(path, split) if path.is_dir() else _prepared(Path(folder), named)
    if path.suffix == ".jsonl":
        rows = read_jsonl(path)
    elif path.name.endswith(CMKP_ENDING):
        rows = read_cmkp(path.parent, path.name.removesuffix(CMKP_ENDING))
    else:
        raise InputError(
            "its name does not say how posts are laid out",
            str(path),
            f"name it .jsonl (JSON Lines) or {{split}}{CMKP_ENDING} (CMKP)",
        )
    posts = []
    for row in rows:
        if isinstance(row, Reject):
            raise row.as_error()
        posts.append(row)
    return posts or _refuse_empty(path)


def _prepared(dataset: Path, split: str) -> list[Post]:
    """A split's posts, including those that prepare could read but not use, which count like the others."""
    from mmkp_jax.data.records import open_split, rejected_posts  # here, as it imports TFDS

    records = open_split(dataset, split)
    rows = each_of(records)
    return [Post(row.id, row.text, None, row.keyphrases) for row in rows] + rejected_posts(dataset, split)


def read_train_keyphrases(path: Path) -> set[str]:
    """The keyphrases of training posts (in any form that `read_posts` takes), or of a plain list, one a line."""
    if not os.path.isfile(path):
        keyphrases = {each.lower() for post in read_posts(path, "train") for each in post.keyphrases}
    elif path.suffix == ".jsonl" or any(SEPARATOR in line for line in _read_lines(path)):
        keyphrases = {each.lower() for post in read_posts(path) for each in post.keyphrases}
    else:
        keyphrases = {each for line in _read_lines(path) for each in split_keyphrases(line)}
    if not keyphrases:
        raise InputError("it has no keyphrases", str(path), "give the training posts or a list of their keyphrases")
    return keyphrases


def seen_keyphrases(file: str, train: Iterable[PostText]) -> set[str]:
    """Keyphrases that count as seen: those of a file (`config.data.train_keyphrases`), else those of `train`."""
    return read_train_keyphrases(Path(file)) if file else {phrase for post in train for phrase in post.keyphrases}


def read_predictions(path: Path, posts: Sequence[Post], reading: Reading = "strict") -> PredictionFile:
    """Predictions of `posts`: by id from JSON Lines (`.jsonl`), else line by line, `;`-joined, in the posts' order.

    Args:
        reading: `strict` takes `predicted` as it is; `lenient` parses the model's output again.

    Raises:
        InputError: a line is not a prediction, predictions are of other posts, or there is no output to parse again.
    """
    if path.suffix != ".jsonl":
        if reading == "lenient":
            raise InputError("it has no outputs, which --reading=lenient needs", str(path), TO_LENIENT)
        return PredictionFile(list(read_aligned(path, len(posts))), None, None)
    rows = list(read_rows(path, "write one JSON object a line")) or _refuse_empty(path)
    predicted_of = {row.text("id"): row.texts("predicted") for row in rows}
    ids = [row.text("id") for row in rows]
    _refuse_repeats(ids, path)
    _refuse_other_ids(ids, [post.id for post in posts], path)
    by_id = dict(zip(ids, rows, strict=True))
    ordered = [by_id[post.id] for post in posts]
    _refuse_other_keyphrases(ordered, posts, path)
    strict = [predicted_of[post.id] for post in posts]
    forms, outputs = (_in_all(ordered, name) for name in ("form", "output"))
    if forms and not set(forms) <= set(FORMS):
        forms = None
    think = [math.nan if (found := read_think(row)) is None else found for row in ordered]
    more = {"think": None if np.isnan(think).all() else think, "modes": frozenset(map(read_mode, ordered))}
    if len(more["modes"]) > 1:
        what = f"its posts were predicted with --mode={' and '.join(sorted(more['modes']))}"
        raise InputError(what, str(path), "give the predictions of one mode")
    if all("tokens" in row.content for row in ordered):
        more["tokens"] = [row.integer("tokens") for row in ordered]
    if reading == "strict":
        logprobs = all_logprobs([phrase_scores_of(row) for row in ordered], strict)
        return PredictionFile(strict, forms, outputs, logprobs=logprobs, **more)
    read = [merge_outputs(_outputs(row), "lenient") for row in ordered]
    predicted = [phrases for phrases, _ in read]
    changed = sum(each != list(dict.fromkeys(before)) for each, before in zip(predicted, strict, strict=True))
    forms = [form if _outputs(row)[0] else "broken" for row, (_, form) in zip(ordered, read, strict=True)]
    return PredictionFile(predicted, forms, outputs, changed, **more)


def _in_all(rows: Sequence[Fields], name: str) -> list[str] | None:
    """The texts under `name`; None if a row has none."""
    return [row.text(name) for row in rows] if all(name in row.content for row in rows) else None


def _outputs(row: Fields) -> Sequence[str]:
    row = row._replace(hint=TO_LENIENT)
    return row.texts("outputs", ()) or [row.text("output")]


TO_LENIENT = "give predictions with the output of each post (.jsonl), or leave out --reading"


def read_aligned(path: Path, posts: int) -> list[str]:
    """The lines of a file with one line a post."""
    found = _read_lines(path)
    if len(found) != posts:
        what = f"{len(found):,} lines for {posts:,} posts"
        raise InputError(what, str(path), "give one line a post; an empty one if nothing is predicted")
    return found


def _read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, split at line feeds only: a post may hold any other separator of Unicode."""
    return lines.read_lines(path) or _refuse_empty(path)


def _refuse_empty(path: Path) -> NoReturn:
    raise InputError("it is empty", str(path), "check that the command that wrote it finished")


def _refuse_repeats(ids: Iterable[str], path: Path) -> None:
    repeated = [each for each, times in Counter(ids).items() if times > 1]
    if repeated:
        raise InputError(f"it repeats {_some(repeated)}", str(path), "keep one line for each id")


def _refuse_other_ids(ids: Iterable[str], expected: Iterable[str], path: Path) -> None:
    found, wanted = dict.fromkeys(ids), dict.fromkeys(expected)
    missing = [each for each in wanted if each not in found]
    unknown = [each for each in found if each not in wanted]
    if missing or unknown:
        faults = [f"lacks {_some(missing)} of the posts"] if missing else []
        faults += [f"has {_some(unknown)} that no post has"] if unknown else []
        raise InputError(f"it {' and '.join(faults)}", str(path), "give the posts that were predicted")


def _refuse_other_keyphrases(rows: Sequence[Fields], posts: Sequence[Post], path: Path) -> None:
    """Refuses predictions of other posts with the same ids: where a row has the post's keyphrases, they are these."""
    pairs = ((row.texts("keyphrases", ()), post) for row, post in zip(rows, posts, strict=True))
    if other := [post.id for own, post in pairs if own and set(own) != set(post.keyphrases)]:
        what = f"the keyphrases of {_some(other)} are not those of the posts"
        raise InputError(what, str(path), "give the posts that were predicted")


def _some(ids: Sequence[str]) -> str:
    """`3 ids ('a', …)`."""
    return f"the id {ids[0]!r}" if len(ids) == 1 else f"{len(ids):,} ids ({ids[0]!r}, …)"
