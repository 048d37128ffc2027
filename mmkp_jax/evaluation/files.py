"""The files that `score` reads: posts, training keyphrases, predictions. Each mistake is one `InputError`."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from mmkp_jax.data.numbered import each_of
from mmkp_jax.data.posts import SEPARATOR, Post, Reject, Words, read_cmkp, read_jsonl
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.outputs import FORMS, Reading, merge_outputs, split_keyphrases
from mmkp_jax.runtime import lines as runtime_lines
from mmkp_jax.runtime.json_files import Fields, read_rows

CMKP_ENDING = "_src.txt"


class Predicted(NamedTuple):
    """What one file holds, in the posts' order; forms and outputs are None where it does not tell each of them."""

    predictions: list[list[str] | str]
    forms: list[str] | None
    outputs: list[str] | None
    changed: int | None = None
    """How many posts the lenient reading gives other keyphrases; None where it was not asked for."""


def read_posts(path: Path, split: str = "test") -> list[Post]:
    """Posts of JSON Lines (`.jsonl`), of a CMKP file (`{split}_src.txt`), or of a prepared dataset, DIR or DIR:SPLIT.

    Args:
        split: which one of a dataset is taken, where none is named.

    Raises:
        InputError: for the first line that is no post, since no post may go unscored.
    """
    folder, parted, named = str(path).rpartition(":")
    if path.is_dir() or (parted and os.path.isdir(folder)):
        return _prepared(path, split) if path.is_dir() else _prepared(Path(folder), named)
    if path.suffix == ".jsonl":
        rows = read_jsonl(path)
    elif path.name.endswith(CMKP_ENDING):
        rows = read_cmkp(path.parent, path.name.removesuffix(CMKP_ENDING))
    else:
        raise InputError(
            "its name tells no layout of posts",
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
    """A split's posts, those that prepare could read but not use included: they count as any other."""
    from mmkp_jax.data.records import open_split, rejected_posts  # here, as it imports TFDS

    records = open_split(dataset, split)
    rows = each_of(records)
    return [Post(row.id, row.text, None, row.keyphrases) for row in rows] + rejected_posts(dataset, split)


def read_train_keyphrases(path: Path) -> set[str]:
    """The keyphrases of training posts (as `read_posts` takes them), or of a plain list, one a line."""
    if not os.path.isfile(path):
        keyphrases = {each.lower() for post in read_posts(path, "train") for each in post.keyphrases}
    elif path.suffix == ".jsonl" or any(SEPARATOR in line for line in read_lines(path)):
        keyphrases = {each.lower() for post in read_posts(path) for each in post.keyphrases}
    else:
        keyphrases = {each for line in read_lines(path) for each in split_keyphrases(line)}
    if not keyphrases:
        raise InputError("holds no keyphrase", str(path), "give the training posts or a list of their keyphrases")
    return keyphrases


def seen_keyphrases(file: str, train: Iterable[Words]) -> set[str]:
    """Keyphrases that count as seen: those of a file (`config.data.train_keyphrases`), or without one of `train`."""
    return read_train_keyphrases(Path(file)) if file else {phrase for post in train for phrase in post.keyphrases}


def read_predictions(path: Path, posts: Sequence[Post], reading: Reading = "strict") -> Predicted:
    """Predictions of `posts`: by id from JSON Lines (`.jsonl`), else line by line, `;`-joined, in the posts' order.

    Args:
        reading: `strict` takes `predicted` as it is; `lenient` makes it again of what the model wrote.

    Raises:
        InputError: a line is no prediction, predictions are of other posts, or there is no output to read again.
    """
    if path.suffix != ".jsonl":
        if reading == "lenient":
            raise InputError("holds no outputs, of which --reading=lenient makes keyphrases", str(path), TO_LENIENT)
        return Predicted(list(read_aligned(path, len(posts))), None, None)
    rows = list(read_rows(path, "write one JSON object a line")) or _refuse_empty(path)
    predicted_of = {row.text("id"): row.texts("predicted") for row in rows}
    ids = [row.text("id") for row in rows]
    _refuse_repeats(ids, path)
    _refuse_other_ids(ids, [post.id for post in posts], path)
    by_id = dict(zip(ids, rows, strict=True))
    ordered = [by_id[post.id] for post in posts]
    strict = [predicted_of[post.id] for post in posts]
    forms, outputs = (_in_all(ordered, name) for name in ("form", "output"))
    if forms and not set(forms) <= set(FORMS):
        forms = None
    if reading == "strict":
        return Predicted(strict, forms, outputs)
    read = [merge_outputs(_outputs(row), "lenient") for row in ordered]
    predicted = [phrases for phrases, _ in read]
    changed = sum(each != list(dict.fromkeys(before)) for each, before in zip(predicted, strict, strict=True))
    forms = [form if _outputs(row)[0] else "broken" for row, (_, form) in zip(ordered, read, strict=True)]
    return Predicted(predicted, forms, outputs, changed)


def _in_all(rows: Sequence[Fields], name: str) -> list[str] | None:
    """The texts under `name`; None where a row has none."""
    return [row.text(name) for row in rows] if all(name in row.content for row in rows) else None


def _outputs(row: Fields) -> Sequence[str]:
    row = row._replace(hint=TO_LENIENT)
    return row.texts("outputs", ()) or [row.text("output")]


TO_LENIENT = "give predictions with the output of each post (.jsonl), or leave --reading out"


def read_aligned(path: Path, posts: int) -> list[str]:
    """The lines of a file that has one for each post."""
    lines = read_lines(path)
    if len(lines) != posts:
        raise InputError(
            f"{len(lines):,} lines for {posts:,} posts", str(path), "give one line a post, empty where there is nothing"
        )
    return lines


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, ended by line feeds alone: a post may hold any other separator that Unicode knows."""
    return runtime_lines.read_lines(path) or _refuse_empty(path)


def _refuse_empty(path: Path) -> NoReturn:
    raise InputError("is empty", str(path), "check that what wrote it went through to its end")


def _refuse_repeats(ids: Iterable[str], path: Path) -> None:
    repeated = [each for each, times in Counter(ids).items() if times > 1]
    if repeated:
        raise InputError(f"repeats {_some(repeated)}", str(path), "keep one line for each id")


def _refuse_other_ids(ids: Iterable[str], expected: Iterable[str], path: Path) -> None:
    found, wanted = dict.fromkeys(ids), dict.fromkeys(expected)
    missing = [each for each in wanted if each not in found]
    unknown = [each for each in found if each not in wanted]
    if missing or unknown:
        faults = [f"lacks {_some(missing)} of the posts"] if missing else []
        faults += [f"has {_some(unknown)} that no post has"] if unknown else []
        raise InputError(" and ".join(faults), str(path), "score it with the posts that it was predicted for")


def _some(ids: Sequence[str]) -> str:
    """`3 ids ('a', …)`."""
    return f"the id {ids[0]!r}" if len(ids) == 1 else f"{len(ids):,} ids ({ids[0]!r}, …)"
