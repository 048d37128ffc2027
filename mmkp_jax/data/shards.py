"""A split as blocks of posts. Each is checked and written on its own, by any process, and kept once it is complete.

A block is a few files of one name in a folder: `.posts`, its rows as JSON Lines; then `.array_record`, its records;
last `.result`, which says that it is done, and what came of it. So a killed run resumes, and the same code runs in this
process or under Beam.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from mmkp_jax.data.fields import quoted
from mmkp_jax.data.image_files import ImageError, image_path, read_image
from mmkp_jax.data.images import check_aspect, upright_size
from mmkp_jax.data.posts import Post, Record, Reject, post_from, reject_from
from mmkp_jax.errors import InputError
from mmkp_jax.runtime.atomic import write_json
from mmkp_jax.runtime.json_files import parse_object, read_object

POSTS_A_BLOCK = 1024
"""Posts of a block, and so, less its rejects, of a shard: about 200 MB of photographs."""

WRITER_OPTIONS = "group_size:1,uncompressed"
"""Random access to each record; images are compressed already."""

WAITING_BYTES = 32 << 20
"""Bytes of image files that may wait to be written."""

RESTAGE = "start the command again, which writes the file anew"

OnBadRow = Literal["drop", "error"]
_In, _Out = TypeVar("_In"), TypeVar("_Out")


@dataclasses.dataclass(frozen=True)
class BlockResult:
    """What became of a block."""

    stamp: str
    records: int
    bytes: int
    sha256: str
    """Checksum of the file of records; `bytes` is its size."""
    fingerprint: str
    """Hash of the records alone, without what the file adds."""
    rejects: list[dict[str, Any]]

    @property
    def posts(self) -> int:
        return self.records + len(self.rejects)


@functools.cache
def features() -> tfds.features.FeaturesDict:
    """Features of a stored record."""
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "text": tfds.features.Text(),
            "image": tfds.features.Tensor(shape=(), dtype=np.object_),  # the bytes as they are
            "width": np.int32,
            "height": np.int32,
            "keyphrases": tfds.features.Text(doc="a JSON list"),
            "cot": tfds.features.Text(),
            "has_cot": np.bool_,
        }
    )


def stage(rows: Iterable[Post | Reject], folder: Path, split: str, on_bad_row: OnBadRow = "drop") -> list[Path]:
    """Writes the rows of a split into blocks, and returns these, in their order.

    Raises:
        InputError: a row is a reject where none is allowed, or all of them are.
    """
    blocks, rows, usable, bad = [], iter(rows), 0, None
    while some := list(itertools.islice(rows, POSTS_A_BLOCK)):
        usable += sum(isinstance(row, Post) for row in some)
        bad = bad or next((row for row in some if isinstance(row, Reject)), None)
        if bad and on_bad_row == "error":
            raise bad.as_error()
        block = folder / f"{split}-{len(blocks):05d}"
        lines = [json.dumps({type(row).__name__: dataclasses.asdict(row)}) + "\n" for row in some]
        block.with_suffix(".posts").write_text("".join(lines), encoding="utf-8")
        blocks.append(block)
    if bad and not usable:
        what = f"no line of the split {split!r} can be used ({bad.reason})"
        raise InputError(what, f"{bad.file}:{bad.line}", "fix the file, or take it out of the folder")
    return blocks


def stamp_of(block: Path, image_root: Path) -> str:
    """Hash of what a block is made from: its rows, wherever they were read, and their images' sizes and times."""
    digest = hashlib.sha256()
    for row in _staged(block):
        image = None
        if isinstance(row, Post) and row.image is not None:
            with contextlib.suppress(OSError, ImageError):
                found = os.stat(image_path(image_root, row.image))
                image = found.st_size, found.st_mtime_ns
        digest.update(repr((dataclasses.replace(row, file=""), image)).encode())
    return digest.hexdigest()


def result_of(block: Path, stamp: str) -> BlockResult | None:
    """The result of a block made from the same posts and images; None for another or a damaged one."""
    try:
        saved = read_object(block.with_suffix(".result"))
        result = BlockResult(
            stamp=saved.text("stamp"),
            records=saved.integer("records"),
            bytes=saved.integer("bytes"),
            sha256=saved.text("sha256"),
            fingerprint=saved.text("fingerprint"),
            rejects=[row.content for row in saved.rows("rejects")],
        )
        for each in saved.rows("rejects"):
            reject_from(each)
        whole = not result.records or block.with_suffix(".array_record").stat().st_size == result.bytes
    except (OSError, InputError):
        return None
    return result if whole and result.stamp == stamp else None


def write_block(
    block: Path,
    image_root: Path,
    *,
    on_bad_row: OnBadRow = "drop",
    threads: int = 1,
    progress: Callable[[int], object] = lambda posts: None,
) -> BlockResult:
    """Makes records of a block's posts, unless they were made before.

    Args:
        threads: images decoded at a time, as far as `limits.IMAGE` has room; at most twice as many files, and
            `WAITING_BYTES` of more than one, are in memory.
        progress: called with the number of posts done since the last call.

    Raises:
        InputError: a row is bad where none is allowed.
    """
    stamp = stamp_of(block, image_root)
    if result := result_of(block, stamp):
        if on_bad_row == "error" and result.rejects:
            raise Reject(**result.rejects[0] | {"post": None}).as_error()
        progress(result.posts)
        return result
    file, rejects, records, fingerprint = block.with_suffix(".array_record"), [], 0, hashlib.sha256()
    writer = ArrayRecordWriter(str(file), WRITER_OPTIONS)
    with ThreadPoolExecutor(threads) as pool:
        make = functools.partial(record_of, image_root=image_root)
        weight = functools.partial(_file_bytes, image_root=image_root)
        for row in _in_order(pool, make, _staged(block), ahead=2 * threads, weight=weight):
            progress(1)
            if isinstance(row, Record):
                records += 1
                content = _serialized(row)
                fingerprint.update(content)
                writer.write(content)
            elif on_bad_row == "error":
                raise row.as_error()
            else:
                rejects.append(dataclasses.asdict(row))
    writer.close()
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    result = BlockResult(stamp, records, file.stat().st_size, sha256, fingerprint.hexdigest(), rejects)
    write_json(block.with_suffix(".result"), dataclasses.asdict(result), indent=None)
    return result


def record_of(post: Post | Reject, image_root: str | Path) -> Record | Reject:
    """The post with its image, which is decoded once to check that it can be used.

    Rejected are images that are missing, empty, of no known format, truncated or damaged; of more than
    `MAX_DECODED_PIXELS`, which may be decompression bombs; and of an aspect above 200:1, which the model's own
    processor refuses. An image of one pixel is accepted.
    """
    if isinstance(post, Reject):
        return post
    data, width, height = b"", 0, 0
    if post.image is not None:
        try:
            data = read_image(image_path(image_root, post.image))
            width, height = upright_size(data)
            check_aspect(height, width)
        except (ImageError, OSError) as error:
            reason = error.reason if isinstance(error, ImageError) else f"the image cannot be read ({error.strerror})"
            if quoted(post.image) not in reason:
                reason += f": {quoted(post.image)}"
            hint = getattr(error, "hint", "") or "fix or replace the image, or leave the post out"
            return Reject(post.id, post.file, post.line, reason, hint, post)
    return Record(post.id, post.text, data, width, height, post.keyphrases, post.cot)


def _serialized(record: Record) -> bytes:
    """The record as a `tf.train.Example`; equal records are equal bytes."""
    row = {each.name: getattr(record, each.name) for each in dataclasses.fields(record)}
    row |= {"keyphrases": json.dumps(record.keyphrases), "cot": record.cot or "", "has_cot": bool(record.cot)}
    serializer = tfds.core.ExampleSerializer(features().get_serialized_info())
    return serializer.get_tf_example(features().encode_example(row)).SerializeToString(deterministic=True)


def _file_bytes(row: Post | Reject, image_root: Path) -> int:
    if isinstance(row, Reject) or row.image is None:
        return 0
    with contextlib.suppress(OSError, ImageError):
        return image_path(image_root, row.image).stat().st_size
    return 0


def _staged(block: Path) -> Iterator[Post | Reject]:
    file = block.with_suffix(".posts")
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            row = parse_object(line, f"{file}:{number}", RESTAGE)
            yield post_from(row.object("Post")) if "Post" in row.content else reject_from(row.object("Reject"))


def _in_order(
    pool: Executor,
    function: Callable[[_In], _Out],
    items: Iterable[_In],
    ahead: int,
    weight: Callable[[_In], int],
) -> Iterator[_Out]:
    """`map` by the pool's workers, at most `ahead` results or `WAITING_BYTES` ahead of the consumer."""
    waiting: deque[tuple[Future[_Out], int]] = deque()
    held = 0
    try:
        for item in items:
            held += (size := weight(item))
            while waiting and (len(waiting) >= ahead or held > WAITING_BYTES):
                future, freed = waiting.popleft()
                yield future.result()
                held -= freed
            waiting.append((pool.submit(function, item), size))
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        for each, _ in waiting:
            each.cancel()
