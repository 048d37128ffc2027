"""Digests of a run's data and base model, so that a resumed run may find them under another path.

Configs that differ only in these fields, which name files and folders, belong to the same run where the content is the
same. The table of fields lists them; this module defines how content is compared.
"""

import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmkp_jax.data.records import open_split, split_names
from mmkp_jax.errors import InputError
from mmkp_jax.hf.adapter import ADAPTER_FILES
from mmkp_jax.hf.folder import Folder, digests, open_folder
from mmkp_jax.runtime.aside import put_aside_of
from mmkp_jax.runtime.atomic import write_json
from mmkp_jax.runtime.field_types import CONTENT
from mmkp_jax.runtime.fields import leaves, names_by_resume
from mmkp_jax.runtime.json_files import read_object
from mmkp_jax.runtime.lines import read_bytes
from mmkp_jax.training.batches import datasets_of

CONTENTS_FILE = "contents.json"
"""File of a work directory that holds a digest per field."""

CONTENT_FIELDS = names_by_resume(CONTENT)

SAMPLES, SAMPLE_BYTES = 256, 16 << 10
"""Number and size of the samples of a weight file, header included; another training changes nearly all bytes."""


def contents_of(config: ConfigDict, base: Folder) -> dict[str, str]:
    """A digest of what each of `CONTENT_FIELDS` names.

    Raises:
        InputError: a dataset cannot be opened.
    """
    datasets = [
        (each.weight, {name: open_split(each.path, name).fingerprint for name in sorted(split_names(each.path))})
        for each in datasets_of(config)
    ]
    weights = [_sampled(file) for file in sorted({tensor.file for tensor in base.tensors.values()})]
    return {
        "data.path": _digest(datasets),
        **{f"data.{name}": _digest(_file(config.data[name])) for name in ("train_keyphrases", "kinds")},
        "model.path": _digest((digests(base), weights)),
        "lora_adapter": _digest([_file(str(Path(config.lora_adapter).expanduser() / name)) for name in ADAPTER_FILES])
        if config.lora_adapter
        else _digest(""),
    }


def same_content(workdir: Path, now: Mapping[str, str], field: str, before: Any, named: Any) -> bool:
    """Whether a field's value in the work directory's config (`before`) names the same content as its value now.

    Without a saved digest, the same file or folder counts as the same content.

    Raises:
        InputError: the saved digests cannot be read.
    """
    if field not in CONTENT_FIELDS:
        return False
    if (workdir / CONTENTS_FILE).is_file():
        saved = read_object(workdir / CONTENTS_FILE, "remove it, and name the files and folders as the run did")
        return saved.text(field, "") == now.get(field)
    return bool(before and named) and Path(str(before)).resolve() == Path(str(named)).resolve()


def check_put_aside(workdir: Path, config: ConfigDict, now: Mapping[str, str], base: Folder) -> None:
    """Raises `InputError` if what the run began with was put aside since: other content is under the same paths.

    Args:
        now: what `contents_of` gives for the config.
    """
    if not (workdir / CONTENTS_FILE).is_file():
        return
    saved = read_object(workdir / CONTENTS_FILE, "remove it, and name the files and folders as the run did")
    changed = [field for field in CONTENT_FIELDS if saved.text(field, now[field]) != now[field]]
    named = dict(leaves(config.to_dict()))
    moved = {field: put_aside_of(Path(named[field])) for field in changed}
    for tried in zip(*moved.values(), strict=False):  # one folder that was put aside after the other
        before = ConfigDict(config.to_dict())
        before.update_from_flattened_dict({field: str(path) for field, path in zip(moved, tried, strict=True)})
        folder = open_folder(before.model.path) if "model.path" in moved else base
        if all(contents_of(before, folder)[field] == saved.text(field) for field in moved):
            flags = " ".join(f"--config.{field}={path}" for field, path in zip(moved, tried, strict=True))
            what = f"this run began with what was put aside since ({', '.join(moved)})"
            raise InputError(what, str(workdir), f"give {flags}")


def write_contents(workdir: Path, contents: Mapping[str, str]) -> None:
    """Writes the digests into the work directory, unless it has some."""
    if not (workdir / CONTENTS_FILE).exists():
        write_json(workdir / CONTENTS_FILE, contents)


def _digest(content: Any) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _file(path: str) -> str:
    return hashlib.sha256(read_bytes(Path(path))).hexdigest() if path else ""


def _sampled(file: Path) -> tuple[int, int]:
    """Size of a file, and a checksum of evenly spaced samples."""
    size, crc = file.stat().st_size, 0
    with file.open("rb") as opened:
        for number in range(SAMPLES):
            opened.seek(size * number // SAMPLES)
            crc = zlib.crc32(opened.read(SAMPLE_BYTES), crc)
    return size, crc
