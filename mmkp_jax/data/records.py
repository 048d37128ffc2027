"""The dataset that training reads: ArrayRecord files, written and read through TFDS builders, in random access."""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmkp_jax.data.dataset_files import (
    ANEW,
    COPY,
    HALF,
    INFO,
    METADATA,
    builder_in,
    check_files,
    dataset_folders,
    metadata_of,
    no_dataset,
)
from mmkp_jax.data.posts import REJECTS, Post, Record, Reject, reject_from
from mmkp_jax.errors import InputError, nearest
from mmkp_jax.runtime.json_files import Fields, parse_object
from mmkp_jax.runtime.lines import read_lines

if TYPE_CHECKING:
    from tensorflow_datasets.core import BuilderConfig

UNFINISHED = "unfinished"
"""Folder inside the dataset's, with what is done so far; removed when the dataset is complete."""


@dataclasses.dataclass
class SplitCounts:
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
    name: str = "keyphrase_posts",
    config: "BuilderConfig | None" = None,
    extra_files: Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
    beam: str | None = None,
    progress: bool = False,
) -> dict[str, SplitCounts]:
    """Writes a dataset into the folder `out`: the records of each split, and `rejects.jsonl` for all other rows.

    The dataset appears atomically. What a killed run has finished is kept and not done again, if it was made from the
    same posts and images; so is a complete, undamaged dataset of these. An image counts as changed
    when its size or modification time differs.

    Args:
        splits: the posts and rejects of each split, as the readers of `posts` give them.
        image_root: the folder that the posts' image paths are relative to.
        on_bad_row: `drop` counts a bad row and continues; `error` stops at the first, lines before images.
        name: name of the TFDS builder, in `builders.BUILDERS`.
        config: the builder's config, where it has one.
        extra_files: rows of other JSON Lines files that are written into the folder, by name.
        beam: options of Apache Beam, as on its command line; None runs in this process, on all cores.
        progress: show a progress bar.

    Returns:
        What became of the posts of each split.

    Raises:
        InputError: the folder holds another dataset or a damaged one, another process prepares one there, it cannot be
            written, a split has no usable post, or a row is bad where none may be.
    """
    from mmkp_jax.data.builders import BUILDERS, download_config, input_of
    from mmkp_jax.data.shards import stage, stamp_of  # these import TFDS

    out, image_root = Path(out), Path(image_root)
    if not image_root.is_dir():
        raise InputError("there is no such folder of images", str(image_root), "give the folder that holds the images")
    unfinished = out / UNFINISHED
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _alone_in(out):
            unfinished.mkdir(exist_ok=True)
            blocks = {split: stage(rows, unfinished, split, on_bad_row) for split, rows in splits.items()}
            for split in blocks:
                if not blocks[split]:
                    raise InputError(f"the split {split!r} has no posts", str(out), "give it posts, or leave it out")
            if dataset_folders(out):
                stamps = {split: [stamp_of(block, image_root) for block in each] for split, each in blocks.items()}
                shutil.rmtree(unfinished)
                recorded = _existing(
                    out, name, {split: input_of(each) for split, each in stamps.items()}, extra_files or {}
                )
                _check_rejects(out, recorded, on_bad_row)
            else:
                builder = BUILDERS[name](
                    blocks=blocks,
                    images=image_root,
                    on_bad_row=on_bad_row,
                    extra_files=extra_files,
                    progress=progress,
                    config=config,
                    data_dir=out,
                )
                for half in out.glob(f"{name}/**/{HALF}*"):  # left by TFDS in a killed run
                    shutil.rmtree(half)
                with contextlib.redirect_stdout(io.StringIO()):  # TFDS reports a download, and there is none
                    builder.download_and_prepare(download_dir=unfinished, download_config=download_config(beam))
                shutil.rmtree(unfinished)
                recorded = builder.info.metadata
    except (OSError, RuntimeError) as error:  # the last from ArrayRecord's writer, on a full disk
        what = " ".join(str(error).split())
        raise InputError(
            f"the dataset cannot be written ({what})", str(out), "check free space and permissions"
        ) from None
    return {split: SplitCounts(each["posts"], each["records"], _rejects(each)) for split, each in recorded.items()}


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keeps other processes from preparing a dataset in the folder meanwhile."""
    folder = os.open(out, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                what = "another process is preparing a dataset there"
                raise InputError(what, str(out), "wait for it, or give another folder") from None
        yield
    finally:
        os.close(folder)


def _rejects(recorded: Mapping[str, Any]) -> int:
    return recorded["posts"] - recorded["records"]


def _existing(out: Path, name: str, inputs: Mapping[str, str], extra_files: Iterable[str]) -> dict[str, Any]:
    """What the existing dataset records of its splits; an error if it is another dataset, or damaged."""
    (folder, *_) = dataset_folders(out)
    there, recorded = builder_in(folder), metadata_of(folder)
    if (there.name, {split: each["input"] for split, each in recorded.items()}) != (name, inputs):
        what = "the folder already holds a dataset of other posts or images (by their sizes and times)"
        raise InputError(what, str(out), "give another folder, or delete this one")
    for each in recorded.values():
        check_files(folder, each, read=True)
    for each in extra_files:
        if not (out / each).is_file():
            raise InputError("this file of the dataset is missing", str(out / each), ANEW)
    return recorded


def _check_rejects(out: Path, recorded: Mapping[str, Any], on_bad_row: str) -> None:
    """Checks the number of listed rejects; raises the first one where none is allowed."""
    rows = _listed(out)
    if len(rows) != (total := sum(map(_rejects, recorded.values()))):
        raise InputError(f"it lists {len(rows):,} rejects, not {total:,}", str(out / REJECTS), ANEW)
    if rows and on_bad_row == "error":
        raise rows[0][1].as_error()


def rejected_posts(out: str | Path, split: str) -> list[Post]:
    """The posts of a split that could be read but not used: evaluation counts them, with no predictions.

    Raises:
        InputError: the dataset's list of rejects cannot be read.
    """
    return [row.post for of, row in _listed(Path(out)) if of == split and row.post]


def _listed(out: Path) -> list[tuple[str, Reject]]:
    """The rejects of the dataset, each with its split."""
    return [(row.text("split"), reject_from(row)) for row in reject_rows(out)]


def reject_rows(out: Path) -> Iterator[Fields]:
    """The rows of the dataset's list of rejects.

    Raises:
        InputError: a row cannot be read.
    """
    for number, line in enumerate(read_lines(out / REJECTS, ANEW), 1):
        yield parse_object(line, f"{out / REJECTS}:{number}", ANEW)


class Split:
    """The records of one split by number; opened on first use, so that it can be sent to a worker."""

    def __init__(self, source: Any, fingerprint: str, folder: str):
        self._source, self._folder = source, folder
        self.fingerprint = fingerprint
        """Hash of the content: another post, order or image gives another one."""

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, number: int) -> Record:
        try:
            row = self._source[number]
        except RuntimeError as error:  # ArrayRecord's, whose records carry checksums
            what = f"record {number:,} is damaged ({' '.join(str(error).split())})"
            raise InputError(what, self._folder, COPY) from None
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

    The files' sizes are checked, and those of a small split against their checksums too; a damaged record is reported
    when it is read.

    Raises:
        InputError: the folder does not hold one dataset, the dataset has no such split, or a file is damaged.
    """
    folder, builder = _open(Path(out))
    metadata, splits = metadata_of(folder), builder.info.splits
    if split not in splits and split not in metadata:
        raise InputError(f"there is no split {split!r}{nearest(split, splits)}", str(out), "give another split")
    if split not in splits or split not in metadata:
        raise InputError(f"has no {split!r}", str(folder / (METADATA if split in splits else INFO)), COPY)
    recorded = metadata[split]
    check_files(folder, recorded)
    try:
        source = builder.as_data_source(split)
        records = len(source)
    except Exception as error:  # TFDS's own errors, for wrong names or numbers in its files
        raise no_dataset(folder, error) from None
    if records != recorded["records"]:
        raise InputError(f"{split!r} has {records:,} records, not {recorded['records']:,}", str(folder / INFO), COPY)
    return Split(source, recorded["fingerprint"], str(folder))


def split_names(out: str | Path) -> list[str]:
    """The splits of the dataset in the folder `out`.

    Raises:
        InputError: the folder does not hold one dataset.
    """
    return list(_open(Path(out))[1].info.splits)


def _open(out: Path) -> tuple[Path, Any]:
    """The folder of the one dataset in `out`, and its TFDS builder."""
    versions = dataset_folders(out)
    if len(versions) != 1:
        what = f"the folder holds {len(versions) or 'no'} dataset{'s' * (len(versions) != 1)}"
        raise InputError(what, str(out), "give the folder that `prepare` wrote, with --out")
    return versions[0], builder_in(versions[0])
