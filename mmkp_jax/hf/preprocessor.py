"""A model folder's image preprocessor: its settings, read and set; the rest must be as the family implements it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmkp_jax.data.images import MAX_DECODED_PIXELS
from mmkp_jax.data.processor import Processor
from mmkp_jax.errors import InputError
from mmkp_jax.hf.tensors import is_there
from mmkp_jax.models.family import Family, Preprocessor
from mmkp_jax.runtime.json_files import Fields, is_number, read_object

PREPROCESSOR = "preprocessor_config.json"

FILES = {"processor_config.json": "image_processor", PREPROCESSOR: None}
"""Files that may describe it, and under which key; transformers, and so vLLM, use the first that does."""

_HINT = "copy it from the base checkpoint"

_NEAR = 1e-6
"""Relative tolerance of equal numbers: a float32 may be written as decimals."""


class _Description(NamedTuple):
    """A file that describes the preprocessor."""

    file: Path
    content: dict[str, Any]
    fields: Fields
    """The part of the file that describes it."""


def check_preprocessor(folder: Path, family: Family, config: Any) -> None:
    """Refuses a preprocessor that treats images differently from the family's processor and model.

    Args:
        config: the model's config.

    Raises:
        InputError: a field asks for something else, or the file that describes it cannot be read.
    """
    if (known := family.preprocessor) is None:
        return
    for _, _, fields in _descriptions(folder):
        kind = fields.text("image_processor_type", known.kinds[0])
        if kind not in known.kinds:
            fields.refuse("image_processor_type", f"{known.kinds[0]!r}, which is all that is implemented")
        for name, supported in known.supported(config).items():
            is_missing = name in known.required and name not in fields.content
            if is_missing or not _same(fields.content.get(name, supported), supported):
                shown = list(supported) if isinstance(supported, tuple) else supported
                fields.refuse(name, f"{shown}, which is what is implemented")
        if known.settings_in is None:
            _settings(fields, known)


def read_settings(folder: Path, family: Family, config: Any) -> dict[str, int]:
    """The settings of images (`config.data.images`) that the folder gives.

    Args:
        config: the model's config.

    Raises:
        InputError: the file that gives them cannot be read, or they contradict each other.
    """
    for file, _, fields in _with_settings(folder, family.preprocessor) if family.preprocessor else ():
        settings = _settings(fields, family.preprocessor)
        processor_of(family, config, settings, file, _HINT)
        return settings
    return {}


def processor_of(family: Family, config: Any, settings: Mapping[str, int], file: Path, hint: str) -> Processor:
    """The processor of a model's config with the settings of images that a file gives.

    Raises:
        InputError: they contradict each other, or the family has no such settings.
    """
    try:
        return family.processor(config, settings)
    except InputError as error:
        raise InputError(error.what, str(file), hint) from None


def training_settings(folder: Path, family: Family, config: Any) -> dict[str, int]:
    """The settings of images that a run takes from its folder where its config gives none.

    All that the folder gives, except for Qwen2.5-VL: its published limit is 28 times the one that runs have by default,
    so a run that starts from an export with another limit has to be given that.

    Raises:
        InputError: as `read_settings` does.
    """
    is_followed = family.preprocessor is not None and family.preprocessor.limits_training
    return read_settings(folder, family, config) if is_followed else {}


def with_settings(folder: Path, family: Family, settings: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """The files that give settings, by name, with `settings` under the names that each uses.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if family.preprocessor is None:
        return {}
    found = {}
    for file, content, fields in _with_settings(folder, family.preprocessor):
        part = content if not fields.path else content[fields.path]
        _set(part, settings, family.preprocessor)
        found[file.name] = content
    if not found:
        what = f"the folder has no {PREPROCESSOR}, which says how images are resized"
        raise InputError(what, str(folder), "copy it from the base checkpoint")
    return found


def named_settings(family: Family, settings: Mapping[str, int]) -> dict[str, int]:
    """Settings of images under the names that the image processor of the folder's readers has for them."""
    names = family.preprocessor.settings if family.preprocessor else {}
    return {at_top: settings[setting] for setting, (at_top, _) in names.items() if setting in settings}


def _with_settings(folder: Path, known: Preprocessor) -> Iterator[_Description]:
    """Each file that gives settings."""
    if known.settings_in is None:
        yield from _descriptions(folder)
    else:
        fields = read_object(folder / known.settings_in, _HINT)
        yield _Description(folder / known.settings_in, dict(fields.content), fields)


def _descriptions(folder: Path) -> Iterator[_Description]:
    """Each file that describes the preprocessor, without its nulls; the one that counts comes first."""
    for name, key in FILES.items():
        if is_there(folder / name):
            whole = read_object(folder / name, _HINT)
            if key is None or whole.content.get(key) is not None:
                part = whole if key is None else whole.object(key)
                present = {name: value for name, value in part.content.items() if value is not None}
                yield _Description(folder / name, dict(whole.content), part._replace(content=present))


def _settings(fields: Fields, known: Preprocessor) -> dict[str, int]:
    size = fields._replace(content={})
    if any(in_size for _, in_size in known.settings.values()):
        size = fields.object("size", {})
        size = size._replace(content={name: value for name, value in size.content.items() if value is not None})
    found = {}
    for setting, (at_top, in_size) in known.settings.items():
        part, name = (fields, at_top) if at_top in fields.content or in_size is None else (size, in_size)
        if name in part.content:
            found[setting] = part.integer(name)
            if not 1 <= found[setting] <= MAX_DECODED_PIXELS:
                part.refuse(name, f"a whole number from 1 to {MAX_DECODED_PIXELS:,}")
    return found


def _same(value: Any, supported: Any) -> bool:
    if isinstance(supported, tuple):
        pairs = zip(value, supported, strict=False) if isinstance(value, list | tuple) else ()
        return isinstance(value, list | tuple) and len(value) == len(supported) and all(_same(*pair) for pair in pairs)
    if isinstance(supported, float):
        return is_number(value) and abs(value - supported) <= _NEAR * abs(supported)
    return type(value) is type(supported) and value == supported


def _set(part: dict[str, Any], settings: Mapping[str, int], known: Preprocessor) -> None:
    size = part.get("size")
    parts = [part, size] if isinstance(size, dict) else [part]
    for setting, names in known.settings.items():
        used = [(each, name) for each in parts for name in names if name and name in each]
        for each, name in used or [(part, names[0])]:
            each[name] = settings[setting]
