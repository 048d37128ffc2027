"""The dataset that training reads: ArrayRecord files, written and read through TFDS builders, in random access."""

import contextlib
import dataclasses
import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmkp_jax.data.posts import REJECTS, Post, Record, Reject, restored
from mmkp_jax.errors import InputError, nearest

if TYPE_CHECKING:
    from tensorflow_datasets.core import BuilderConfig

UNFINISHED = "unfinished"
"""In the dataset's folder while it is prepared: what is done so far."""

_HALF = "incomplete."
"""How TFDS names the folder of a dataset that it is not done with."""

READ_ON_OPENING = 1 << 28
"""Bytes: the files of a split are held against their checksums when they have no more than this in all."""


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
    name: str = "keyphrase_posts",
    config: "BuilderConfig | None" = None,
    beside: Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
    beam: str | None = None,
    progress: bool = False,
) -> dict[str, Counts]:
    """Writes a dataset into the folder `out`: the records of each split, and `rejects.jsonl` for all other rows.

    It appears whole or not at all. What a killed run has done is kept, and not done again, as far as it would be made
    from the same posts and images; so is a whole dataset of these that is there already.

    Args:
        splits: the posts and rejects of each split, as the readers of `posts` give them.
        image_root: the folder that the posts' pictures are relative to.
        on_bad_row: `drop` counts a bad row and goes on; `error` stops at the first, lines before images.
        name: of the TFDS builder, in `builders.BUILDERS`.
        config: of the builder, where it has any.
        beside: rows of other JSON Lines files that are written into the folder, by name.
        beam: Apache Beam's options, as on its command line; None works in this process, on its cores.
        progress: show a bar.

    Returns:
        What became of the posts of each split.

    Raises:
        InputError: the folder holds another dataset or cannot be written, a split has no usable post, or a row is
            bad where none may be.
    """
    from mmkp_jax.data.blocks import stage, stamp_of  # these import TFDS
    from mmkp_jax.data.builders import BUILDERS, download_config, input_of

    out, image_root = Path(out), Path(image_root)
    if not image_root.is_dir():
        raise InputError("there is no such folder of images", str(image_root), "give the folder that holds the images")
    unfinished = out / UNFINISHED
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        blocks = {split: stage(rows, unfinished, split, on_bad_row) for split, rows in splits.items()}
        for split in blocks:
            if not blocks[split]:
                raise InputError(f"the split {split!r} has no posts", str(out), "give it posts, or leave it out")
        if dataset_folders(out):
            stamps = {split: [stamp_of(block, image_root) for block in each] for split, each in blocks.items()}
            shutil.rmtree(unfinished)
            counts = _counts_of(out, name, {split: input_of(each) for split, each in stamps.items()})
        else:
            builder = BUILDERS[name](
                blocks=blocks,
                images=image_root,
                on_bad_row=on_bad_row,
                beside=beside,
                progress=progress,
                config=config,
                data_dir=out,
            )
            for half in out.glob(f"{name}/**/{_HALF}*"):  # TFDS's, of a killed run
                shutil.rmtree(half)
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS tells of a download that there is not
                builder.download_and_prepare(download_dir=unfinished, download_config=download_config(beam))
            shutil.rmtree(unfinished)
            counts = {split: _counts(each) for split, each in builder.info.metadata.items()}
    except (OSError, RuntimeError) as error:  # the last from ArrayRecord's writer, on a full disk
        what = " ".join(str(error).split())
        raise InputError(f"the dataset cannot be written ({what})", str(out), "see to space and permissions") from None
    return counts


def _counts(told: Mapping[str, Any]) -> Counts:
    return Counts(told["posts"], told["records"], told["posts"] - told["records"])


def _counts_of(out: Path, name: str, inputs: Mapping[str, str]) -> dict[str, Counts]:
    """The counts of the dataset that is there, if it is this one; an error if it is another."""
    import tensorflow_datasets as tfds

    there = tfds.builder_from_directory(str(dataset_folders(out)[0]))
    found = {split: dict(told).get("input") for split, told in there.info.metadata.items()}
    if (there.name, found) != (name, inputs):
        what = "the folder holds a dataset already, of other posts or images"
        raise InputError(what, str(out), "give another folder, or delete this one")
    return {split: _counts(told) for split, told in there.info.metadata.items()}


def rejected_posts(out: str | Path, split: str) -> list[Post]:
    """The posts of a split that could be read, but not used: evaluation counts them, with nothing predicted.

    Raises:
        InputError: the dataset's list of rejects cannot be read.
    """
    file = Path(out) / REJECTS
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        posts = [row["post"] for row in rows if row["split"] == split and row["post"]]
        return [restored(post) for post in posts]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError("the list of rejects cannot be read", str(file), "prepare the dataset again") from None


class Split:
    """The records of one split by number; opened where it is used, so that it can be sent to a worker."""

    def __init__(self, source: Any, fingerprint: str, folder: str):
        self._source, self._folder = source, folder
        self.fingerprint = fingerprint
        """Names the content: another post, order or picture gives another one."""

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, number: int) -> Record:
        try:
            row = self._source[number]
        except RuntimeError as error:  # ArrayRecord's, whose records carry checksums
            what = f"record {number:,} is damaged ({' '.join(str(error).split())})"
            raise InputError(what, self._folder, "copy the dataset again, or prepare it again") from None
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

    The files' sizes are held against those that were written, and those of a small split read through for their
    checksums too; a record that is damaged is told when it is read.

    Raises:
        InputError: the folder does not hold one dataset, the dataset has no such split, or a file is damaged.
    """
    import tensorflow_datasets as tfds

    versions = dataset_folders(Path(out))
    if len(versions) != 1:
        what = f"the folder holds {len(versions) or 'no'} dataset{'s' * (len(versions) != 1)}"
        raise InputError(what, str(out), "give the folder that `prepare` wrote, with --out")
    builder = tfds.builder_from_directory(str(versions[0]))
    if split not in builder.info.splits:
        raise InputError(f"there is no split {split!r}{nearest(split, builder.info.splits)}", str(out), "name another")
    told = builder.info.metadata[split]
    if "files" not in told:
        raise InputError("the dataset was prepared by an older version", str(out), "delete it and prepare it again")
    _check_files(versions[0], told["files"])
    return Split(builder.as_data_source(split), told["fingerprint"], str(versions[0]))


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    read = sum(told["bytes"] for told in files.values()) <= READ_ON_OPENING
    for name, told in files.items():
        try:
            size = (folder / name).stat().st_size
            if size != told["bytes"]:
                wrong = f"it has {size:,} bytes, not {told['bytes']:,}"
            elif read and hashlib.sha256((folder / name).read_bytes()).hexdigest() != told["sha256"]:
                wrong = "its checksum is another"
            else:
                continue
        except OSError as error:
            wrong = f"it cannot be read: {error.strerror}"
        what, mend = f"the dataset is damaged in this file ({wrong})", "copy the dataset again, or prepare it again"
        raise InputError(what, str(folder / name), mend)


def dataset_folders(out: Path) -> list[Path]:
    """The folders of whole datasets: `out` itself, or `name/version` or `name/config/version` inside it."""
    found = [file.parent for pattern in ("", "*/*/", "*/*/*/") for file in out.glob(f"{pattern}dataset_info.json")]
    return [folder for folder in found if not folder.name.startswith(_HALF)]
