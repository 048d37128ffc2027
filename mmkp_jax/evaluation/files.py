"""The files that `score` reads: posts, training keyphrases, predictions. Each mistake is one `InputError`."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from mmkp_jax.data.posts import SEPARATOR, Post, Reject, read_cmkp, read_jsonl
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.outputs import FORMS, split_keyphrases

CMKP_ENDING = "_src.txt"


class Predicted(NamedTuple):
    """What one file holds, in the posts' order; forms and outputs are None where it does not tell each of them."""

    predictions: list[list[str] | str]
    forms: list[str] | None
    outputs: list[str] | None


def read_posts(path: Path, split: str = "test") -> list[Post]:
    """Posts of JSON Lines (`.jsonl`), of a CMKP file (`{split}_src.txt`), or of a prepared dataset, DIR or DIR:SPLIT.

    Args:
        split: which one of a dataset is taken, where none is named.

    Raises:
        InputError: for the first line that is no post, since no post may go unscored.
    """
    folder, parted, named = str(path).rpartition(":")
    if path.is_dir() or (parted and Path(folder).is_dir()):
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
    rows = (records[number] for number in range(len(records)))
    return [Post(row.id, row.text, None, row.keyphrases) for row in rows] + rejected_posts(dataset, split)


def read_train_keyphrases(path: Path) -> set[str]:
    """The keyphrases of training posts (as `read_posts` takes them), or of a plain list, one a line."""
    if not path.is_file():
        keyphrases = {each.lower() for post in read_posts(path, "train") for each in post.keyphrases}
    elif path.suffix == ".jsonl" or any(SEPARATOR in line for line in read_lines(path)):
        keyphrases = {each.lower() for post in read_posts(path) for each in post.keyphrases}
    else:
        keyphrases = {each for line in read_lines(path) for each in split_keyphrases(line)}
    if not keyphrases:
        raise InputError("holds no keyphrase", str(path), "give the training posts or a list of their keyphrases")
    return keyphrases


def read_predictions(path: Path, posts: Sequence[Post]) -> Predicted:
    """Predictions of `posts`: by id from JSON Lines (`.jsonl`), else line by line, `;`-joined, in the posts' order."""
    if path.suffix != ".jsonl":
        return Predicted(list(read_aligned(path, len(posts))), None, None)
    rows = list(_json_rows(path)) or _refuse_empty(path)
    for where, row in rows:
        _check_strings(row, "predicted", where)
    ids = [_string(row, "id", where) for where, row in rows]
    _refuse_repeats(ids, path)
    _refuse_other_ids(ids, [post.id for post in posts], path)
    by_id = {each: row for each, (_, row) in zip(ids, rows, strict=True)}
    ordered = [by_id[post.id] for post in posts]
    forms, outputs = ([row.get(key) for row in ordered] for key in ("form", "output"))
    return Predicted(
        [row["predicted"] for row in ordered],
        forms if all(form in FORMS for form in forms) else None,
        outputs if all(isinstance(output, str) for output in outputs) else None,
    )


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
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", str(path), "check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 at byte {error.start}", str(path), "convert it to UTF-8") from error
    if not text:
        _refuse_empty(path)
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _json_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """(`path:line`, object) of each line that is not blank."""
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"is not JSON ({error})", where, "write one JSON object a line") from error
        if not isinstance(row, dict):
            raise InputError(f"is a JSON {type(row).__name__}, not an object", where, "write one JSON object a line")
        yield where, row


def _string(row: dict, key: str, where: str) -> str:
    if not isinstance(row.get(key), str):
        raise InputError(f"has no string {key!r}", where, f'write "{key}": "…"')
    return row[key]


def _check_strings(row: dict, key: str, where: str) -> None:
    if not isinstance(row.get(key), list) or not all(isinstance(each, str) for each in row[key]):
        raise InputError(f"has no list of strings {key!r}", where, f'write "{key}": ["…"], or [] for none')


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
