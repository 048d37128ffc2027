"""Posts as their files hold them: the CMKP layout and JSON Lines, one post or one reject for every line."""

import dataclasses
import gzip
import json
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmkp_jax.errors import InputError

SEPARATOR = "<sep>"

REJECTS = "rejects.jsonl"
"""In a dataset's folder: the rows that are no record, each with its reason."""

LONGEST_ID = 256
"""Characters: the index of lengths takes as much for every post as for the longest id."""

_BLANK = re.compile(r"[ \t\r\n]*")


@dataclasses.dataclass(frozen=True)
class Post:
    """One post of a social medium, and where it was read."""

    id: str
    text: str
    image: str | None
    """The picture's path, relative to the folder of pictures; None for a post without one."""
    keyphrases: tuple[str, ...]
    cot: str | None = None
    """The chain of thought that leads to the keyphrases; None for a post without one."""
    file: str = ""
    line: int = 0
    """From 1."""


@dataclasses.dataclass(frozen=True)
class Reject:
    """One line that is no usable post: a row of `rejects.jsonl`."""

    id: str | None
    file: str
    line: int
    """From 1."""
    reason: str
    mend: str
    post: Post | None = None
    """The post itself, where the line could be read and something else stands against it."""

    def as_error(self) -> InputError:
        """The reject as the one line that a user reads."""
        return InputError(self.reason, f"{self.file}:{self.line}", self.mend)


def restored(row: dict[str, Any]) -> Post:
    """The post that `dataclasses.asdict` and JSON made this object of."""
    return Post(**row | {"keyphrases": tuple(row["keyphrases"])})


def restored_reject(row: dict[str, Any]) -> Reject:
    """The reject that `dataclasses.asdict` and JSON made this object of."""
    return Reject(**row | {"post": row["post"] and restored(row["post"])})


@dataclasses.dataclass(frozen=True)
class Record:
    """One post, as training and evaluation read it."""

    id: str
    text: str
    image: bytes
    """The picture's file as it was found; empty for a post without one."""
    width: int
    """Pixels of the upright picture; 0 without one."""
    height: int
    keyphrases: tuple[str, ...]
    cot: str | None


class BadLine(Exception):
    """Carries a reject's reason, mend and, where it could be read, the post's id."""

    def __init__(self, reason: str, mend: str, post_id: str | None = None):
        super().__init__(reason, mend, post_id)
        self.reason, self.mend, self.id = reason, mend, post_id


def read_cmkp(folder: str | Path, split: str) -> Iterator[Post | Reject]:
    """Reads `{split}_src.txt`, whose lines are `text<sep>kp;kp<sep>https://.../NAME.jpg`.

    A post's id is `{split}-{line, from 1}`, its picture the last part of the URL.

    Raises:
        InputError: the file cannot be read.
    """
    file = Path(folder) / f"{split}_src.txt"
    for number, line in _lines(file):
        post_id = f"{split}-{number}"
        try:
            text, keyphrases, image = _cmkp_fields(_decoded(line))
        except BadLine as bad:
            yield Reject(post_id, str(file), number, bad.reason, bad.mend)
        else:
            yield Post(post_id, text, image, keyphrases, None, str(file), number)


def read_jsonl(
    *files: str | Path, post_of: "Callable[[dict[str, Any], str, int], Post] | None" = None
) -> Iterator[Post | Reject]:
    """Reads JSON Lines of `{"id", "text", "image": path or null, "keyphrases": [...], "cot": text or null}`.

    `cot` may be left out; other fields and blank lines are passed over. A name that ends in `.gz` is unpacked as it is
    read; in a file `.json`, one array may hold all the objects.

    Args:
        files: the file, or the shards that make up a split: an id may stand in them once.
        post_of: the post of an object in a file's line, or raises `BadLine`; without it, `own_post`.

    Raises:
        InputError: a file cannot be read.
    """
    ids = _Ids()
    for file in map(str, files):
        for number, row in objects_of(file):
            try:
                if isinstance(row, BadLine):
                    raise row
                post = (post_of or own_post)(row, file, number)
                check_id(post.id)
                if (first := ids.first_place(post.id, file, number)) != (file, number):
                    place = f"line {first[1]}" if first[0] == file else f"{first[0]}:{first[1]}"
                    raise BadLine(f"the id {post.id!r} stands in {place} too", "give every post its own id", post.id)
            except BadLine as bad:
                yield Reject(bad.id, file, number, bad.reason, bad.mend)
            else:
                yield post


class _Ids:
    """The ids of a split with their first places, on disk where they are many: memory does not grow with the posts."""

    def __init__(self):
        self._database = sqlite3.connect("", check_same_thread=False)  # a temporary file, gone with the connection
        self._database.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, file TEXT, line INTEGER) WITHOUT ROWID")

    def first_place(self, post_id: str, file: str, line: int) -> tuple[str, int]:
        """The file and line where the id stood first: these, if it is new."""
        try:
            added = self._database.execute("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", (post_id, file, line))
        except sqlite3.Error as error:
            what = f"the ids cannot be kept in the folder of temporary files ({error})"
            raise InputError(what, file, "see to space there, or name another in TMPDIR") from None
        if added.rowcount:
            return file, line
        return self._database.execute("SELECT file, line FROM ids WHERE id = ?", (post_id,)).fetchone()


def objects_of(file: str | Path) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    """The JSON objects of a file, each with its line from 1, and a `BadLine` for each other line that is not blank.

    Raises:
        InputError: the file cannot be read, or is an array that is damaged somewhere: what follows cannot be told.
    """
    file = Path(file)
    if file.name.removesuffix(".gz").endswith(".json"):
        whole = b"".join(line for _, line in _lines(file))
        if whole.lstrip()[:1] == b"[":
            yield from ((number, _object(row)) for number, row in _array_items(whole, str(file)))
            return
    for number, line in _lines(file):
        if not line.strip():
            continue
        try:
            row: Any = _object(json.loads(_decoded(line)))
        except BadLine as bad:
            row = bad
        except (ValueError, RecursionError) as error:
            reason = f"the line is not JSON ({str(error).splitlines()[0]})"
            row = BadLine(reason, "write one JSON object a line")
        yield number, row


def _array_items(whole: bytes, file: str) -> Iterator[tuple[int, Any]]:
    try:
        text = whole.decode("utf-8")
    except UnicodeDecodeError as error:
        number = 1 + whole.count(b"\n", 0, error.start)
        raise InputError("the array is not UTF-8", f"{file}:{number}", "save the file as UTF-8") from None
    decode, line, at = json.JSONDecoder().raw_decode, 1, 0

    def skip_blank(start: int) -> str:
        nonlocal line, at
        end = _BLANK.match(text, start).end()
        line += text.count("\n", at, end)
        at = end
        return text[at : at + 1]

    mark = skip_blank(0)
    while mark in ("[", ","):
        if skip_blank(at + 1) == "]" and mark == "[":
            return
        started = line
        try:
            row, end = decode(text, at)
        except (ValueError, RecursionError):
            break
        yield started, row
        if (mark := skip_blank(end)) == "]":
            return
    raise InputError("the array is not JSON from here on", f"{file}:{line}", "write [{…}, {…}, …]")


def _object(row: Any) -> dict[str, Any] | BadLine:
    if isinstance(row, dict):
        return row
    return BadLine("the line is not a JSON object", 'write {"id": …, "text": …, "image": …, "keyphrases": […]}')


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The file's lines from 1, split at line feeds only: other line breaks of Unicode occur inside posts."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is no gzip file, or a damaged one"
        raise InputError(
            f"the posts cannot be read ({reason})", str(file), "give the folder or file of the posts"
        ) from None


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise BadLine("the line is not UTF-8", "save the file as UTF-8") from None


def _cmkp_fields(line: str) -> tuple[str, tuple[str, ...], str]:
    fields = line.split(SEPARATOR)
    if len(fields) != 3:
        layout = f"write it as text{SEPARATOR}keyphrase;keyphrase{SEPARATOR}image URL"
        raise BadLine(f"the line has {len(fields)} field{'s' * (len(fields) != 1)}, not 3", layout)
    text, keyphrases, url = fields
    image = url.strip().rsplit("/", 1)[-1]
    if not image:
        raise BadLine("the image URL names no file", "end the URL with the image's file name")
    return text, keyphrases_of(keyphrases.split(";")), image


def keyphrases_of(listed: list[str], post_id: str | None = None) -> tuple[str, ...]:
    """The keyphrases without blanks around them, and without empty ones; `BadLine` where none is left."""
    keyphrases = tuple(k for k in (keyphrase.strip() for keyphrase in listed) if k)
    if not keyphrases:
        raise BadLine("the post has no keyphrase", "give it at least one, or leave the post out", post_id)
    return keyphrases


def own_post(row: dict[str, Any], file: str, number: int) -> Post:
    """The post of an object in this project's own form; `BadLine` where it is none."""
    post_id = field(row, "id", None, str)
    if not post_id:
        raise BadLine("the id is empty", "give every post its own id")
    text = field(row, "text", post_id, str)
    image = field(row, "image", post_id, str, type(None))
    cot = field({"cot": None} | row, "cot", post_id, str, type(None))
    listed = field(row, "keyphrases", post_id, list)
    if not all(isinstance(keyphrase, str) for keyphrase in listed):
        raise BadLine("keyphrases holds something that is not text", 'write it as ["kp", "kp"]', post_id)
    if parted := [keyphrase for keyphrase in listed if ";" in keyphrase]:
        reason = f"the keyphrase {parted[0]!r} has a ';', which parts keyphrases"
        raise BadLine(reason, 'write it as two: ["kp", "kp"]', post_id)
    keyphrases = keyphrases_of(listed, post_id)
    check_characters(post_id, text, image or "", cot or "", *keyphrases)
    return Post(post_id, text, image or None, keyphrases, cot if cot and cot.strip() else None, file, number)


def check_id(post_id: str) -> None:
    """Refuses, with `BadLine`, an id that an array of ids could not hold as it is, or not cheaply."""
    if len(post_id) > LONGEST_ID:
        reason = f"the id has {len(post_id):,} characters, more than {LONGEST_ID}"
        raise BadLine(reason, "give the post a shorter one")
    if "\0" in post_id:
        raise BadLine("the id holds a NUL character", "take it out", post_id)


def check_characters(*texts: str) -> None:
    """Refuses, with `BadLine`, half of a surrogate pair: JSON can hold it, but it is no character."""
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        raise BadLine("the line holds half a character (a lone surrogate)", "write the whole one") from None


def field(row: dict[str, Any], name: str, post_id: str | None, *kinds: type) -> Any:
    """The object's field, of one of these kinds; `BadLine` where it is not."""
    what = " or ".join({str: "text", list: "a list", type(None): "null"}[kind] for kind in kinds)
    if name not in row:
        raise BadLine(f"the post has no {name!r}", f"add it: {what}", post_id)
    if not isinstance(row[name], kinds):
        raise BadLine(f"{name!r} is {json.dumps(row[name])[:40]}", f"write it as {what}", post_id)
    return row[name]
