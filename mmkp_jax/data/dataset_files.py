"""The files that describe a prepared dataset, checked before anything is read by them; each fault names its file."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.json_files import Fields, read_object

INFO, FEATURES, METADATA = "dataset_info.json", "features.json", "metadata.json"

ANEW = "delete the dataset and prepare it again"
COPY = f"copy the dataset again, or {ANEW}"

HALF = "incomplete."
"""How TFDS names the folder of a dataset that it is not done with."""

READ_ON_OPENING = 1 << 28
"""Bytes: the files of a split are held against their checksums when they have no more than this in all."""


def dataset_folders(out: Path) -> list[Path]:
    """The folders of complete datasets: `out` itself, or `name/version` or `name/config/version` inside it."""
    found = [file.parent for pattern in ("", "*/*/", "*/*/*/") for file in out.glob(f"{pattern}{INFO}")]
    return [folder for folder in found if not folder.name.startswith(HALF)]


def builder_in(folder: Path) -> Any:
    """The TFDS builder of the dataset in a folder.

    Raises:
        InputError: a file that describes it is damaged, or is of other records.
    """
    import tensorflow_datasets as tfds

    from mmkp_jax.data.shards import features

    read_object(folder / INFO, COPY)
    if (folder / METADATA).is_file():
        metadata_of(folder)
    try:
        builder = tfds.builder_from_directory(str(folder))
        list(builder.info.splits)
    except Exception as error:  # protobuf's, JSON's and TFDS's own
        _check_features(folder, _outline(features()))
        raise no_dataset(folder, error) from None
    _check_features(folder, _outline(features()))
    return builder


def _check_features(folder: Path, ours: Any) -> None:
    """Refuses a file of features, where there is one, that describes other records than ours."""
    import tensorflow_datasets as tfds

    if not (folder / FEATURES).is_file():
        return
    read_object(folder / FEATURES, COPY)
    try:
        there = _outline(tfds.features.FeatureConnector.from_config(str(folder)))
        wrong = "" if there == ours else "others"
    except Exception as error:  # protobuf's and TFDS's own
        wrong = for_terminal(" ".join(str(error).split())[:100]) or type(error).__name__
    if wrong:
        raise InputError(f"its features are not those of posts ({wrong})", str(folder / FEATURES), COPY)


def _outline(features: Any) -> dict[str, tuple[str, tuple[int | None, ...], str]]:
    """The kind, shape and type of each feature."""
    return {name: (type(each).__name__, each.shape, np.dtype(each.np_dtype).name) for name, each in features.items()}


def no_dataset(folder: Path, error: Exception) -> InputError:
    """What is wrong where TFDS cannot follow the files of a dataset."""
    what = for_terminal(" ".join(str(error).split())[:100]) or type(error).__name__
    hint = f"take it away if it is another program's; else {ANEW}"
    return InputError(f"this describes no dataset ({what})", str(folder / INFO), hint)


def metadata_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What `prepare` noted of each split: its posts, records, input, fingerprint, and its files with their checksums.

    Raises:
        InputError: the file is damaged, or of an older version.
    """
    told = read_object(folder / METADATA, COPY)
    return {split: _split(told.object(split)) for split in told.content}


def _split(told: Fields) -> dict[str, Any]:
    if "files" not in told.content:
        raise InputError("the dataset was prepared by an older version", told.where, ANEW)
    files = told.object("files")
    each = {name: files.object(name) for name in files.content}
    return {
        "posts": told.integer("posts"),
        "records": told.integer("records"),
        "input": told.text("input"),
        "fingerprint": told.text("fingerprint"),
        "files": {name: {"bytes": file.integer("bytes"), "sha256": file.text("sha256")} for name, file in each.items()},
    }


def check_files(folder: Path, split: Mapping[str, Any], *, read: bool = False) -> None:
    """Holds a split's files against their sizes, and small ones, or all with `read`, against their checksums.

    Raises:
        InputError: one is not what was written.
    """
    read = read or sum(told["bytes"] for told in split["files"].values()) <= READ_ON_OPENING
    for name, told in split["files"].items():
        try:
            size = (folder / name).stat().st_size
            if size != told["bytes"]:
                wrong = f"it has {size:,} bytes, not {told['bytes']:,}"
            elif read and _sha256(folder / name) != told["sha256"]:
                wrong = "its checksum is another"
            else:
                continue
        except (OSError, ValueError) as error:
            wrong = f"it cannot be read: {getattr(error, 'strerror', None) or 'its name is none'}"
        what = f"the dataset is damaged in this file ({wrong})"
        raise InputError(what, for_terminal(str(folder / name)), COPY)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
