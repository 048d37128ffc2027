"""Posts as their files hold them: the CMKP layout and JSON Lines, one post or one reject for every line."""

import dataclasses
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmkp_jax.data.chains import chain_of, check_keyphrases
from mmkp_jax.data.fields import BadLine, check_characters, check_id, check_image, field, id_text, keyphrases_of, quoted
from mmkp_jax.data.json_rows import HINT, decoded, objects_of
from mmkp_jax.data.tidying import Notes, tidy
from mmkp_jax.errors import InputError
from mmkp_jax.runtime.json_files import Fields
from mmkp_jax.runtime.lines import lines_of

SEPARATOR = "<sep>"

REJECTS = "rejects.jsonl"
"""File in a dataset's folder: the rows that became no record, each with its reason."""


@dataclasses.dataclass(frozen=True)
class Post:
    """One post of a social medium, and where it was read."""

    id: str
    text: str
    image: str | None
    """The image's path, relative to the folder of images; None for a post without one."""
    keyphrases: tuple[str, ...]
    cot: str | None = None
    """The chain of thought that leads to the keyphrases; None for a post without one."""
    file: str = ""
    line: int = 0
    """Line number in the file, from 1."""


@dataclasses.dataclass(frozen=True)
class Reject:
    """One line that is no usable post: a row of `rejects.jsonl`."""

    id: str | None
    file: str
    line: int
    """Line number in the file, from 1."""
    reason: str
    hint: str
    post: Post | None = None
    """The post itself, where the line could be read and was rejected for another reason."""

    def as_error(self) -> InputError:
        """The reject as the one line that a user reads."""
        return InputError(self.reason, f"{self.file}:{self.line}", self.hint)


def post_from(row: Fields) -> Post:
    """The post that `dataclasses.asdict` wrote as this object; InputError where it is none."""
    return Post(
        id=row.text("id"),
        text=row.text("text"),
        image=_or_null(row, "image"),
        keyphrases=tuple(row.texts("keyphrases")),
        cot=_or_null(row, "cot"),
        file=row.text("file"),
        line=row.integer("line"),
    )


def reject_from(row: Fields) -> Reject:
    """The reject that `dataclasses.asdict` wrote as this object; InputError where it is none."""
    return Reject(
        id=_or_null(row, "id"),
        file=row.text("file"),
        line=row.integer("line"),
        reason=row.text("reason"),
        hint=row.text("hint" if "hint" in row.content else "mend"),
        post=post_from(row.object("post")) if row.content.get("post") is not None else None,
    )


def _or_null(row: Fields, name: str) -> str | None:
    return row.text(name) if row.content.get(name, "") is not None else None


@dataclasses.dataclass(frozen=True)
class Record:
    """One post, as training and evaluation read it."""

    id: str
    text: str
    image: bytes
    """Bytes of the image file, unchanged; empty for a post without one."""
    width: int
    """Pixels of the upright image; 0 without one."""
    height: int
    keyphrases: tuple[str, ...]
    cot: str | None


class PostText(NamedTuple):
    """A post without its image: enough to score it."""

    id: str
    text: str
    keyphrases: tuple[str, ...]


def text_of(post: Post | Record) -> PostText:
    """The post without its image."""
    return PostText(post.id, post.text, post.keyphrases)


PostOf = Callable[[dict[str, Any], str, int, Notes | None], Post]
"""Makes a post of the object in a line, counting in the notes what was tidied, or raises `BadLine`."""


def read_cmkp(folder: str | Path, split: str) -> Iterator[Post | Reject]:
    """Reads `{split}_src.txt`, whose lines are `text<sep>kp;kp<sep>https://.../NAME.jpg`.

    A post's id is `{split}-{line, from 1}`, its image the last part of the URL.

    Raises:
        InputError: the file cannot be read.
    """
    file = Path(folder) / f"{split}_src.txt"
    for line in lines_of(file, HINT):
        post_id = f"{split}-{line.number}"
        try:
            text, keyphrases, image = _cmkp_fields(decoded(line))
        except BadLine as bad:
            yield Reject(post_id, str(file), line.number, bad.reason, bad.hint)
        else:
            yield Post(post_id, text, image, keyphrases, None, str(file), line.number)


def read_jsonl(
    *files: str | Path, post_of: PostOf | None = None, notes: Notes | None = None
) -> Iterator[Post | Reject]:
    """Reads JSON Lines of `{"id", "text", "image": path or null, "keyphrases": [...], "cot": text or null}`.

    Other fields and blank lines are ignored. A file whose name ends in `.gz` is unpacked as it is read; in a `.json`
    file, one array may hold all the objects.

    Args:
        files: the file, or the shards that make up a split: an id may occur in them once.
        post_of: makes a post of an object; without it, `own_post`.
        notes: counts what was accepted with a correction; see `own_post`.

    Raises:
        InputError: a file cannot be read.
    """
    ids = _Ids()
    for file in map(str, files):
        for number, row in objects_of(file):
            try:
                if isinstance(row, BadLine):
                    raise row
                post = (post_of or own_post)(row, file, number, notes)
                check_id(post.id)
                if (first := ids.first_place(post.id, file, number)) != (file, number):
                    place = f"line {first[1]}" if first[0] == file else f"{first[0]}:{first[1]}"
                    raise BadLine(f"the id {post.id!r} is in {place} too", "give every post its own id", post.id)
            except BadLine as bad:
                yield Reject(bad.id, file, number, bad.reason, bad.hint, bad.post)
            else:
                yield post


class _Ids:
    """The ids of a split and where each occurred first, on disk if many, so that memory does not grow."""

    def __init__(self):
        self._database = sqlite3.connect("", check_same_thread=False)  # a temporary file, gone with the connection
        self._database.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, file TEXT, line INTEGER) WITHOUT ROWID")

    def first_place(self, post_id: str, file: str, line: int) -> tuple[str, int]:
        """The file and line where the id occurred first: these, if it is new."""
        try:
            added = self._database.execute("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", (post_id, file, line))
        except sqlite3.Error as error:
            what = f"the ids cannot be kept in the folder of temporary files ({error})"
            raise InputError(what, file, "free space there, or set TMPDIR to another folder") from None
        if added.rowcount:
            return file, line
        return self._database.execute("SELECT file, line FROM ids WHERE id = ?", (post_id,)).fetchone()


def _cmkp_fields(line: str) -> tuple[str, tuple[str, ...], str]:
    fields = line.split(SEPARATOR)
    if len(fields) != 3:
        layout = f"write it as text{SEPARATOR}keyphrase;keyphrase{SEPARATOR}image URL"
        raise BadLine(f"the line has {len(fields)} field{'s' * (len(fields) != 1)}, not 3", layout)
    text, keyphrases, url = fields
    image = url.strip().rsplit("/", 1)[-1]
    if not image:
        raise BadLine("the image URL names no file", "end the URL with the image's file name")
    found = keyphrases_of(keyphrases.split(";"))
    check_keyphrases(found)
    return text, found, image


def own_post(row: dict[str, Any], file: str, number: int, notes: Notes | None = None) -> Post:
    """The post of an object in this project's own format; `BadLine` where it is none.

    Accepted, and counted in `notes`: an id that is a number, or none, which becomes the file's stem and the line;
    no image; keyphrases in one text, split at `;`; repeated blanks in keyphrases, and repeated keyphrases.
    """
    notes = notes or Notes()
    post_id = post_id_of(row, file, number, notes)
    text = field(row, "text", post_id, str)
    cot = field({"cot": None} | row, "cot", post_id, str, type(None))
    image = _own_image(row, post_id)
    if "image" not in row and "images" not in row:
        notes.count(file, "imageless")
    listed = field(row, "keyphrases", post_id, list, str)
    if isinstance(listed, str):
        notes.count(file, "string")
        listed = listed.split(";")
    if not all(isinstance(keyphrase, str) for keyphrase in listed):
        raise BadLine("keyphrases holds something that is not text", 'write it as ["kp", "kp"]', post_id)
    if joined := [keyphrase for keyphrase in listed if ";" in keyphrase]:
        reason = f"the keyphrase {quoted(joined[0])} has a ';', which separates keyphrases"
        raise BadLine(reason, 'write it as two: ["kp", "kp"]', post_id)
    post = Post(post_id, text, image, keyphrases_of(listed, post_id), None, file, number)
    return with_chain(tidied(post, notes), cot)


def post_id_of(row: dict[str, Any], file: str, number: int, notes: Notes) -> str:
    """The id of an object's post: its own, as text, or one made of the file's stem and the line."""
    given = row.get("id")
    if given is None:
        notes.count(file, "unnamed")
        return f"{Path(file).name.split('.')[0]}-{number}"
    if not isinstance(given, str):
        notes.count(file, "number")
    return id_text(given)


def tidied(post: Post, notes: Notes) -> Post:
    """The post with tidied keyphrases (`tidying.tidy`); `BadLine` where a field holds what is not allowed."""
    check_image(post.image, post.id)
    check_characters(post.id, post.text, post.image or "", *post.keyphrases)
    check_keyphrases(post.keyphrases, post.id)
    keyphrases, changed = tidy(post.keyphrases)
    if not keyphrases:
        raise BadLine("the post has no keyphrase", "give it at least one, or leave the post out", post.id)
    for each in changed:
        notes.count(post.file, each)
    return dataclasses.replace(post, keyphrases=keyphrases)


def with_chain(post: Post, cot: str | None) -> Post:
    """The post with its chain of thought, without tags; `BadLine`, which keeps the post, where it is malformed."""
    if cot is None:
        return post
    try:
        check_characters(cot)
        return dataclasses.replace(post, cot=chain_of(cot, post.keyphrases, post.id) or None)
    except BadLine as bad:
        bad.id, bad.post = post.id, post
        raise


def _own_image(row: dict[str, Any], post_id: str) -> str | None:
    """The image's path under `image` or, where that names none, the only one of a list under `images`."""
    image = field({"image": None} | row, "image", post_id, str, type(None))
    if image or not row.get("images"):
        return image or None
    listed = field(row, "images", post_id, list)
    if len(listed) != 1:
        raise BadLine(f"the row has {len(listed)} images", "give each post one image, or none", post_id)
    return field({"images": listed[0]}, "images", post_id, str)
