"""A model folder's image preprocessor: its pixel limits, read and set; all else must be what `data.images` does."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from mmkp_jax.data.images import MAX_DECODED_PIXELS, MERGE, PATCH
from mmkp_jax.errors import InputError
from mmkp_jax.families.qwen2_5_vl.model import CLIP_MEAN, CLIP_STD
from mmkp_jax.hf.tensors import is_there
from mmkp_jax.runtime.json_files import Fields, is_number, read_object

PREPROCESSOR = "preprocessor_config.json"

FILES = {"processor_config.json": "image_processor", PREPROCESSOR: None}
"""The files that may describe it, and under which key; transformers, and so vLLM, take the first that does."""

LIMITS = (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge"))
"""What the least and the most are called: next to `size`, where they count first, and in it."""

_HINT = "copy it from the base checkpoint"

_KINDS = ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil", "Qwen2_5_VLImageProcessor")
"""transformers' names, over its releases, for the one image processor of Qwen2.5-VL."""

_SUPPORTED: Mapping[str, Any] = {
    "do_resize": True,
    "resample": int(Image.Resampling.BICUBIC),
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "do_convert_rgb": True,
    "patch_size": PATCH,
    "merge_size": MERGE,
}
"""The fields that decide what the model sees, beside pixel limits: with the defaults that transformers has too."""

_NEAR = 1e-6
"""How far apart, as a share, numbers may be that are the same: a float32 written as decimals."""


class _Description(NamedTuple):
    """A file that describes the preprocessor."""

    file: Path
    content: dict[str, Any]
    fields: Fields
    """The part of it that does."""


def check_preprocessor(folder: Path, temporal_patch_size: int) -> None:
    """Refuses a preprocessor that makes other patches of an image than `data.images` and the model do.

    Args:
        temporal_patch_size: the one in the folder's `config.json`.

    Raises:
        InputError: a field asks for something else, or the file that describes it cannot be read.
    """
    for _, _, fields in _descriptions(folder):
        kind = fields.text("image_processor_type", _KINDS[0])
        if kind not in _KINDS:
            fields.refuse("image_processor_type", f"{_KINDS[0]!r}, which is all that is implemented")
        for name, supported in {**_SUPPORTED, "temporal_patch_size": temporal_patch_size}.items():
            if not _same(fields.content.get(name, supported), supported):
                shown = list(supported) if isinstance(supported, tuple) else supported
                fields.refuse(name, f"{shown}, which is what images are made ready with here")
        _limits(fields, (1, 1))


def pixel_limits(folder: Path, default: tuple[int, int]) -> tuple[int, int]:
    """The least and the most pixels of a resized image; of `default` where the folder does not give them.

    Raises:
        InputError: the file that gives them cannot be read.
    """
    for file, _, fields in _descriptions(folder):
        least, most = _limits(fields, default)
        if least > most:
            what = f"its least pixels of a resized image are {least:,}, and its most {most:,}"
            raise InputError(what, str(file), _HINT)
        return least, most
    return default


def with_pixel_limits(folder: Path, limits: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """The files that give limits, by name, with other limits under the names that each uses.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    found = {}
    for file, content, fields in _descriptions(folder):
        part = content if not fields.path else content[fields.path]
        _set(part, limits)
        found[file.name] = content
    if not found:
        what = f"the folder has no {PREPROCESSOR}, which tells of pixels"
        raise InputError(what, str(folder), "copy it from the base checkpoint")
    return found


def _descriptions(folder: Path) -> Iterator[_Description]:
    """Each file that describes the preprocessor, without its nulls; the one that counts comes first."""
    for name, key in FILES.items():
        if is_there(folder / name):
            whole = read_object(folder / name, _HINT)
            if key is None or whole.content.get(key) is not None:
                part = whole if key is None else whole.object(key)
                present = {name: value for name, value in part.content.items() if value is not None}
                yield _Description(folder / name, dict(whole.content), part._replace(content=present))


def _limits(fields: Fields, default: tuple[int, int]) -> tuple[int, int]:
    size = fields.object("size", {})
    size = size._replace(content={name: value for name, value in size.content.items() if value is not None})
    limits = []
    for (beside, inside), other in zip(LIMITS, default, strict=True):
        part, name = (fields, beside) if beside in fields.content else (size, inside)
        limits.append(part.integer(name, other))
        if not 1 <= limits[-1] <= MAX_DECODED_PIXELS:
            part.refuse(name, f"a whole number from 1 to {MAX_DECODED_PIXELS:,}")
    return limits[0], limits[1]


def _same(value: Any, supported: Any) -> bool:
    if isinstance(supported, tuple):
        pairs = zip(value, supported, strict=False) if isinstance(value, list | tuple) else ()
        return isinstance(value, list | tuple) and len(value) == len(supported) and all(_same(*pair) for pair in pairs)
    if isinstance(supported, float):
        return is_number(value) and abs(value - supported) <= _NEAR * abs(supported)
    return type(value) is type(supported) and value == supported


def _set(part: dict[str, Any], limits: tuple[int, int]) -> None:
    size = part.get("size")
    parts = [part, size] if isinstance(size, dict) else [part]
    for names, limit in zip(LIMITS, limits, strict=True):
        used = [(each, name) for each in parts for name in names if name in each]
        for each, name in used or [(part, names[0])]:
            each[name] = limit
