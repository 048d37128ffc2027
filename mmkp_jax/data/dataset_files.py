"""The files that describe a prepared dataset, checked before use; each error names its file."""

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
"""Prefix of the folder of a dataset that TFDS has not finished."""

READ_ON_OPENING = 1 << 28
"""Most bytes of a split whose files are checked against their checksums when it is opened."""


def dataset_folders(out: Path) -> list[Path]:
    """The folders of complete datasets: `out` itself, or `name/version` or `name/config/version` inside it."""
    found = [file.parent for pattern in ("", "*/*/", "*/*/*/") for file in out.glob(f"{pattern}{INFO}")]
    return [folder for folder in found if not folder.name.startswith(HALF)]


def builder_in(folder: Path) -> Any:
    """The TFDS builder of the dataset in a folder.

    Raises:
        InputError: a file that describes it is damaged, or describes other records.
    """
    import tensorflow_datasets as tfds

    from mmkp_jax.data.shards import features

    read_object(folder / INFO, COPY)
    if (folder / METADATA).is_file():
        metadata_of(folder)
    try:
        builder = tfds.builder_from_directory(str(folder))
        list(builder.info.splits)
    except Exception as error:  # errors of protobuf, JSON and TFDS
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
        wrong = "" if there == ours else "they differ"
    except Exception as error:  # errors of protobuf and TFDS
        wrong = for_terminal(" ".join(str(error).split())[:100]) or type(error).__name__
    if wrong:
        raise InputError(f"its features are not those of posts ({wrong})", str(folder / FEATURES), COPY)


def _outline(features: Any) -> dict[str, tuple[str, tuple[int | None, ...], str]]:
    """The kind, shape and type of each feature."""
    return {name: (type(each).__name__, each.shape, np.dtype(each.np_dtype).name) for name, each in features.items()}


def no_dataset(folder: Path, error: Exception) -> InputError:
    """The error where TFDS cannot read the files of a dataset."""
    what = for_terminal(" ".join(str(error).split())[:100]) or type(error).__name__
    hint = f"move it away if it belongs to another program; else {ANEW}"
    return InputError(f"this describes no dataset ({what})", str(folder / INFO), hint)


def metadata_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What `prepare` recorded of each split: posts, records, input, fingerprint, and files with their checksums.

    Raises:
        InputError: the file is damaged, or of an older version.
    """
    recorded = read_object(folder / METADATA, COPY)
    return {split: _split(recorded.object(split)) for split in recorded.content}


def _split(recorded: Fields) -> dict[str, Any]:
    if "files" not in recorded.content:
        raise InputError("the dataset was prepared by an older version", recorded.where, ANEW)
    files = recorded.object("files")
    each = {name: files.object(name) for name in files.content}
    return {
        "posts": recorded.integer("posts"),
        "records": recorded.integer("records"),
        "input": recorded.text("input"),
        "fingerprint": recorded.text("fingerprint"),
        "files": {name: {"bytes": file.integer("bytes"), "sha256": file.text("sha256")} for name, file in each.items()},
    }


def check_files(folder: Path, split: Mapping[str, Any], *, read: bool = False) -> None:
    """Checks the sizes of a split's files, and the checksums of a small split's, or of all with `read`.

    Raises:
        InputError: a file is not what was written.
    """
    read = read or sum(recorded["bytes"] for recorded in split["files"].values()) <= READ_ON_OPENING
    for name, recorded in split["files"].items():
        try:
            size = (folder / name).stat().st_size
            if size != recorded["bytes"]:
                wrong = f"it has {size:,} bytes, not {recorded['bytes']:,}"
            elif read and _sha256(folder / name) != recorded["sha256"]:
                wrong = "its checksum differs"
            else:
                continue
        except (OSError, ValueError) as error:
            wrong = f"it cannot be read: {getattr(error, 'strerror', None) or 'its name is not valid'}"
        what = f"the dataset is damaged in this file ({wrong})"
        raise InputError(what, for_terminal(str(folder / name)), COPY)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
