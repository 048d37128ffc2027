"""Digests of a run's data and base model, so that a resumed run may find them under another path.

Configs that differ only in these fields, which name files and folders, belong to the same run where the content is the
same. The table of fields lists them; this module defines how content is compared.
"""

import hashlib
import shlex
import zlib
from collections.abc import Mapping, Sequence
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
from mmkp_jax.runtime.json_files import Fields, read_object
from mmkp_jax.runtime.lines import read_bytes
from mmkp_jax.training.batches import datasets_of

CONTENTS_FILE = "contents.json"
"""File of a work directory that holds a digest per field."""

CONTENT_FIELDS = names_by_resume(CONTENT)

SAMPLES, SAMPLE_BYTES = 256, 16 << 10
"""Number and size of the samples of a weight file, header included; another training changes nearly all bytes."""


def contents_of(config: ConfigDict, base: Folder | None = None) -> dict[str, str]:
    """A digest of what each of `CONTENT_FIELDS` names, of those that the config has.

    Args:
        base: the folder of `config.model.path`, where it is open already.

    Raises:
        InputError: a dataset or the model cannot be opened.
    """
    named = dict(leaves(config.to_dict()))
    return {field: _content(field, config, base) for field in CONTENT_FIELDS if field in named}


def content_of_data(config: ConfigDict) -> str:
    """The digest of a run's datasets.

    Raises:
        InputError: one cannot be opened.
    """
    return _digest([(each.weight, _splits(each.path)) for each in datasets_of(config)])


def same_content(workdir: Path, now: Mapping[str, str], field: str, before: Any, named: Any) -> bool:
    """Whether a field's value in the work directory's config (`before`) names the same content as its value now.

    Without a saved digest, the same file or folder counts as the same content.

    Raises:
        InputError: the saved digests cannot be read.
    """
    if field not in CONTENT_FIELDS:
        return False
    if (workdir / CONTENTS_FILE).is_file():
        return _saved(workdir).text(field, "") == now.get(field)
    return bool(before and named) and Path(str(before)).resolve() == Path(str(named)).resolve()


def put_aside_since(workdir: Path, config: ConfigDict) -> dict[str, Path]:
    """Fields whose content, as the run began with it, is in a folder that was put aside, and the path there.

    Of a mixture of datasets none is looked for.

    Raises:
        InputError: the saved digests cannot be read.
    """
    if not (workdir / CONTENTS_FILE).is_file():
        return {}
    saved, found = _saved(workdir), {}

    def has(field: str, path: Path | str) -> bool:
        other = ConfigDict(config.to_dict())
        other.update_from_flattened_dict({field: str(path)})
        try:
            return _content(field, other) == saved.text(field, "")
        except InputError:  # nothing of that kind is there
            return False

    for field, named in leaves(config.to_dict()):
        asides = put_aside_of(Path(named)) if named and field in CONTENT_FIELDS and field in saved.content else []
        if asides and not has(field, named):
            found[field] = next((path for path in asides if has(field, path)), None)
    return {field: path for field, path in found.items() if path}


def check_put_aside(workdir: Path, config: ConfigDict) -> None:
    """Raises `InputError` if what the run began with was put aside since: something else is under the same paths."""
    if found := put_aside_since(workdir, config):
        flags = " ".join(shlex.quote(f"--config.{field}={path}") for field, path in found.items())
        what = f"what this run began with was put aside since ({', '.join(found)})"
        raise InputError(what, str(workdir), f"give {flags}")


def check_contents(workdir: Path, now: Mapping[str, str], fields: Sequence[str]) -> None:
    """Raises `InputError` if one of these fields does not name what the run began with.

    Args:
        now: what `contents_of` gives for the config.
    """
    if not (workdir / CONTENTS_FILE).is_file():
        return
    saved = _saved(workdir)
    if changed := [field for field in fields if field in now and saved.text(field, now[field]) != now[field]]:
        what = f"{', '.join(changed)} name other content than when the run began"
        raise InputError(what, str(workdir), "restore it, or give another --workdir")


def write_contents(workdir: Path, contents: Mapping[str, str]) -> None:
    """Writes the digests into the work directory, unless it has some."""
    if not (workdir / CONTENTS_FILE).exists():
        write_json(workdir / CONTENTS_FILE, contents)


def _saved(workdir: Path) -> Fields:
    return read_object(workdir / CONTENTS_FILE, "remove it, and name the files and folders as the run did")


def _content(field: str, config: ConfigDict, base: Folder | None = None) -> str:
    """The digest of what a field names."""
    if field == "data.path":
        return content_of_data(config)
    named = dict(leaves(config.to_dict()))[field]
    if field in ("model.path", "lora_adapter") and not named:
        return _digest("")
    if field == "model.path":
        folder = base or open_folder(named)
        weights = [_sampled(file) for file in sorted({tensor.file for tensor in folder.tensors.values()})]
        return _digest((digests(folder), weights))
    if field == "lora_adapter":
        return _digest([_file(str(Path(named).expanduser() / name)) for name in ADAPTER_FILES])
    return _digest(_file(named))


def _splits(dataset: str) -> dict[str, str]:
    return {name: open_split(dataset, name).fingerprint for name in sorted(split_names(dataset))}


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
