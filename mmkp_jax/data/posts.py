"""Posts as their files hold them: the CMKP layout and JSON Lines, one post or one reject for every line."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmkp_jax.errors import InputError

SEPARATOR = "<sep>"


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


class _BadLine(Exception):
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
        except _BadLine as bad:
            yield Reject(post_id, str(file), number, bad.reason, bad.mend)
        else:
            yield Post(post_id, text, image, keyphrases, None, str(file), number)


def read_jsonl(file: str | Path) -> Iterator[Post | Reject]:
    """Reads JSON Lines of `{"id", "text", "image": path or null, "keyphrases": [...], "cot": text or null}`.

    `cot` may be left out; other fields are passed over.

    Raises:
        InputError: the file cannot be read.
    """
    file, first_line = Path(file), {}
    for number, line in _lines(file):
        try:
            post = _json_post(_decoded(line), str(file), number)
            if (first := first_line.setdefault(post.id, number)) != number:
                raise _BadLine(f"the id {post.id!r} stands in line {first} too", "give every post its own id", post.id)
        except _BadLine as bad:
            yield Reject(bad.id, str(file), number, bad.reason, bad.mend)
        else:
            yield post


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The file's lines from 1, split at line feeds only: other line breaks of Unicode occur inside posts."""
    try:
        with file.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        raise InputError(
            f"the posts cannot be read ({error.strerror})", str(file), "give the folder or file of the posts"
        ) from None


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise _BadLine("the line is not UTF-8", "save the file as UTF-8") from None


def _cmkp_fields(line: str) -> tuple[str, tuple[str, ...], str]:
    fields = line.split(SEPARATOR)
    if len(fields) != 3:
        layout = f"write it as text{SEPARATOR}keyphrase;keyphrase{SEPARATOR}image URL"
        raise _BadLine(f"the line has {len(fields)} field{'s' * (len(fields) != 1)}, not 3", layout)
    text, keyphrases, url = fields
    image = url.strip().rsplit("/", 1)[-1]
    if not image:
        raise _BadLine("the image URL names no file", "end the URL with the image's file name")
    return text, _keyphrases(keyphrases.split(";")), image


def _keyphrases(listed: list[str], post_id: str | None = None) -> tuple[str, ...]:
    keyphrases = tuple(k for k in (keyphrase.strip() for keyphrase in listed) if k)
    if not keyphrases:
        raise _BadLine("the post has no keyphrase", "give it at least one, or leave the post out", post_id)
    return keyphrases


def _json_post(line: str, file: str, number: int) -> Post:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = f"the line is not JSON ({str(error).splitlines()[0]})"
        raise _BadLine(reason, "write one JSON object a line") from None
    if not isinstance(row, dict):
        raise _BadLine("the line is not a JSON object", 'write {"id": …, "text": …, "image": …, "keyphrases": […]}')
    post_id = _field(row, "id", None, str)
    if not post_id:
        raise _BadLine("the id is empty", "give every post its own id")
    text = _field(row, "text", post_id, str)
    image = _field(row, "image", post_id, str, type(None))
    cot = _field({"cot": None} | row, "cot", post_id, str, type(None))
    listed = _field(row, "keyphrases", post_id, list)
    if not all(isinstance(keyphrase, str) for keyphrase in listed):
        raise _BadLine("keyphrases holds something that is not text", 'write it as ["kp", "kp"]', post_id)
    if parted := [keyphrase for keyphrase in listed if ";" in keyphrase]:
        reason = f"the keyphrase {parted[0]!r} has a ';', which parts keyphrases"
        raise _BadLine(reason, 'write it as two: ["kp", "kp"]', post_id)
    keyphrases = _keyphrases(listed, post_id)
    try:
        "".join([post_id, text, image or "", cot or "", *keyphrases]).encode("utf-8")
    except UnicodeEncodeError:  # JSON can hold half of a surrogate pair, which is no character
        raise _BadLine("the line holds half a character (a lone surrogate)", "write the whole one", None) from None
    return Post(post_id, text, image or None, keyphrases, cot or None, file, number)


def _field(row: dict[str, Any], name: str, post_id: str | None, *kinds: type) -> Any:
    what = " or ".join({str: "text", list: "a list", type(None): "null"}[kind] for kind in kinds)
    if name not in row:
        raise _BadLine(f"the post has no {name!r}", f"add it: {what}", post_id)
    if not isinstance(row[name], kinds):
        raise _BadLine(f"{name!r} is {json.dumps(row[name])[:40]}", f"write it as {what}", post_id)
    return row[name]
