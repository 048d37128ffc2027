"""The dataset that training reads: ArrayRecord files, written and read through TFDS builders, in random access."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

from mmkp_jax.data.images import ImageError, check_aspect, decode, image_path
from mmkp_jax.data.posts import Post, Record, Reject
from mmkp_jax.errors import InputError, nearest

REJECTS = "rejects.jsonl"


@dataclasses.dataclass
class Counts:
    """What became of a split's posts: records + rejects = posts."""

    posts: int = 0
    records: int = 0
    rejects: int = 0


def write_dataset(
    out: str | Path,
    splits: Mapping[str, Iterable[Post | Reject]],
    image_root: str | Path,
    *,
    on_bad_row: Literal["drop", "error"] = "drop",
) -> dict[str, Counts]:
    """Writes a dataset into the folder `out`: the records of each split, and `rejects.jsonl` for all other rows.

    Args:
        splits: the posts and rejects of each split, as the readers of `posts` give them.
        image_root: the folder that the posts' pictures are relative to.
        on_bad_row: `drop` counts a bad row and goes on, `error` stops at the first.

    Returns:
        What became of the posts of each split.

    Raises:
        InputError: the folder holds a dataset already or cannot be written, a split has no usable post, or a row is
            bad where none may be.
    """
    from mmkp_jax.data.builders import KeyphrasePosts  # here, as it imports TFDS

    out = Path(out)
    if _versions(out):
        raise InputError("the folder holds a dataset already", str(out), "give another folder, or delete this one")
    if not Path(image_root).is_dir():
        raise InputError("there is no such folder of images", str(image_root), "give the folder that holds the images")
    counts = {split: Counts() for split in splits}
    failed: list[InputError] = []  # TFDS may wrap what its generators raise

    def rows(split: str, posts: Iterable[Post | Reject], rejects: TextIO) -> Iterator[Record]:
        try:
            yield from _records(split, posts, Path(image_root), counts[split], rejects, on_bad_row)
            if not counts[split].records:
                found = f"{counts[split].posts} posts, none of them usable" if counts[split].posts else "no posts"
                raise InputError(f"the split {split!r} has {found}", str(out / REJECTS), "see there for the reasons")
        except InputError as error:
            failed.append(error)
            raise

    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / REJECTS).open("w", encoding="utf-8") as rejects:
            given = {split: rows(split, posts, rejects) for split, posts in splits.items()}
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS tells of a download that there is not
                KeyphrasePosts(rows=given, data_dir=str(out)).download_and_prepare()
    except (InputError, OSError, RuntimeError) as error:  # the last from ArrayRecord's writer, on a full disk
        if failed:
            raise failed[0] from None
        what = " ".join(str(error).split())
        raise InputError(f"the dataset cannot be written ({what})", str(out), "see to space and permissions") from None
    return counts


def _records(
    split: str, posts: Iterable[Post | Reject], image_root: Path, counts: Counts, rejects: TextIO, on_bad_row: str
) -> Iterator[Record]:
    for post in posts:
        counts.posts += 1
        row = post if isinstance(post, Reject) else record_of(post, image_root)
        if isinstance(row, Record):
            counts.records += 1
            yield row
            continue
        if on_bad_row == "error":
            raise row.as_error()
        counts.rejects += 1
        rejects.write(json.dumps({"split": split} | dataclasses.asdict(row), ensure_ascii=False) + "\n")


def record_of(post: Post, image_root: str | Path) -> Record | Reject:
    """The post with its picture, which is decoded once to see that it can be used."""
    data, width, height = b"", 0, 0
    if post.image is not None:
        try:
            data = image_path(image_root, post.image).read_bytes()
            width, height = decode(data).size
            check_aspect(height, width)
        except (ImageError, OSError) as error:
            reason = error.reason if isinstance(error, ImageError) else f"the image cannot be read ({error.strerror})"
            if repr(post.image) not in reason:
                reason += f": {post.image}"
            mend = "mend or replace the image, or leave the post out"
            return Reject(post.id, post.file, post.line, reason, mend, post)
    return Record(post.id, post.text, data, width, height, post.keyphrases, post.cot)


def rejected_posts(out: str | Path, split: str) -> list[Post]:
    """The posts of a split that could be read, but not used: evaluation counts them, with nothing predicted.

    Raises:
        InputError: the dataset's list of rejects cannot be read.
    """
    file = Path(out) / REJECTS
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        posts = [row["post"] for row in rows if row["split"] == split and row["post"]]
        return [Post(**post | {"keyphrases": tuple(post["keyphrases"])}) for post in posts]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError("the list of rejects cannot be read", str(file), "prepare the dataset again") from None


class Split:
    """The records of one split by number; opened where it is used, so that it can be sent to a worker."""

    def __init__(self, source: Any, fingerprint: str):
        self._source = source
        self.fingerprint = fingerprint
        """Names the content: another post, order or picture gives another one."""

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, number: int) -> Record:
        row = self._source[number]
        return Record(
            id=row["id"].decode(),
            text=row["text"].decode(),
            image=row["image"],
            width=int(row["width"]),
            height=int(row["height"]),
            keyphrases=tuple(json.loads(row["keyphrases"])),
            cot=row["cot"].decode() if row["has_cot"] else None,
        )


def open_split(out: str | Path, split: str) -> Split:
    """Opens a split of the dataset in the folder `out`.

    Raises:
        InputError: the folder does not hold one dataset, or the dataset has no such split.
    """
    import tensorflow_datasets as tfds

    versions = _versions(Path(out))
    if len(versions) != 1:
        what = f"the folder holds {len(versions) or 'no'} dataset{'s' * (len(versions) != 1)}"
        raise InputError(what, str(out), "give the folder that `prepare` wrote, with --out")
    builder = tfds.builder_from_directory(str(versions[0]))
    if split not in builder.info.splits:
        raise InputError(f"there is no split {split!r}{nearest(split, builder.info.splits)}", str(out), "name another")
    return Split(builder.as_data_source(split), builder.info.metadata[split]["sha256"])


def _versions(out: Path) -> list[Path]:
    """The folders of whole datasets: `out` itself, or `name/version` inside it."""
    found = [file.parent for pattern in ("", "*/*/") for file in out.glob(f"{pattern}dataset_info.json")]
    return [folder for folder in found if not folder.name.startswith("incomplete.")]  # TFDS's, of a killed run
