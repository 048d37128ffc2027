"""Tensors in a folder's safetensors files: location by name, and values. Never a pickle."""

import math
import os
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.json_files import is_integer, is_object, parse_object, read_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

AGAIN = "download the checkpoint again"

DTYPES = {"BF16": jnp.dtype(jnp.bfloat16), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}
"""The dtypes that are loaded, by safetensors' name."""

BLOCK_BYTES = 64 << 20
"""Bytes of a file that are mapped into memory at a time."""

HEADER_BYTES = 100_000_000
"""Largest header of a safetensors file: the format's own limit."""

Index = tuple[slice, ...]


class Tensor(NamedTuple):
    """A tensor's file and name, and its shape and dtype from the file's header."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    """Dtype by safetensors' name: `BF16`, `F32`, ..."""
    first_row: int = 0
    """Where it is a part of the rows of the file's tensor, the first of them."""


def is_there(file: Path) -> bool:
    """Whether there is such a file.

    Raises:
        InputError: there is a link to a missing file, as after a hub's cache was moved or cleaned; or no file can
            have that name.
    """
    try:
        found = file.is_file()
    except OSError as error:  # a name from an index may be longer than any
        hint = "take the index published with the weights"
        raise InputError(f"a file cannot be looked up ({error.strerror})", str(file.parent), hint) from None
    if not found and file.is_symlink():
        raise InputError(
            f"this is a link to {os.readlink(file)}, and no file is there",
            str(file),
            "copy the folder with what its links point to, or download the checkpoint again",
        )
    return found


def reason_of(error: BaseException) -> str:
    """An error of another library in one line: its class, and the first line of its message."""
    return " ".join([type(error).__name__ + ":", *str(error).splitlines()[:1]])


def find_files(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder by their name in the file; only headers are read.

    Raises:
        InputError: the folder has no safetensors files, or one of them, or their index, is damaged.
    """
    if is_there(folder / WEIGHTS):
        return read_header(folder / WEIGHTS)
    if is_there(folder / INDEX):
        return _read_indexed(folder)
    absent = f"the folder has neither {WEIGHTS} nor {INDEX}"
    if pickles := sorted(file.name for file in folder.glob("pytorch_model*.bin")):
        raise InputError(
            f"{absent}, and pickles such as {pickles[0]} are never opened",
            str(folder),
            "save the model as safetensors with transformers' save_pretrained",
        )
    raise InputError(absent, str(folder), AGAIN)


def read(tensor: Tensor, index: Index) -> np.ndarray:
    """The part of a tensor under `index`, in the file's dtype.

    Read in blocks of rows, with the file opened anew for each: the pages of a mapped file count as resident
    memory for as long as it is open.
    """
    dtype = DTYPES[tensor.dtype]
    rows, *_ = spans = [range(length)[part] for length, part in zip(tensor.shape, index, strict=True)]
    out = np.empty([len(span) for span in spans], dtype)
    step = _rows_of_a_block(tensor)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        with safe_open(tensor.file, framework="numpy") as opened:
            part, first = opened.get_slice(tensor.name), tensor.first_row
            out[start : start + step] = part[(slice(first + block.start, first + block.stop), *index[1:])]
    return out


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of known dtypes hold the same numbers; a block of each is in memory at a time."""
    if one.shape != other.shape:
        return False
    step, rest = min(_rows_of_a_block(one), _rows_of_a_block(other)), (slice(None),) * (len(one.shape) - 1)
    for start in range(0, one.shape[0], step):
        block = (slice(start, min(start + step, one.shape[0])), *rest)
        if not np.array_equal(read(one, block).astype(np.float32), read(other, block).astype(np.float32)):
            return False
    return True


def _rows_of_a_block(tensor: Tensor) -> int:
    return max(1, BLOCK_BYTES // max(1, math.prod(tensor.shape[1:]) * DTYPES[tensor.dtype].itemsize))


def _read_indexed(folder: Path) -> dict[str, Tensor]:
    index = folder / INDEX
    weight_map = read_object(index, AGAIN).object("weight_map").content
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file:
            what = f"its weight_map gives {name!r} no name of a safetensors file in this folder"
            raise InputError(what, str(index), AGAIN)
    files = sorted(set(weight_map.values()))
    if absent := [file for file in files if not is_there(folder / file)]:
        raise InputError(f"the index names files that are not there: {', '.join(absent)}", str(index), AGAIN)
    headers = {file: read_header(folder / file) for file in files}
    if lacking := [f"{name} ({file})" for name, file in weight_map.items() if name not in headers[file]]:
        raise InputError(f"the index names tensors that their file lacks: {', '.join(lacking)}", str(index), AGAIN)
    return {name: headers[file][name] for name, file in weight_map.items()}


def read_header(file: Path) -> dict[str, Tensor]:
    try:
        declared = _declared_bytes(file)
    except OSError as error:  # checked first, as safetensors reports any failure to open as an absent file
        raise InputError(
            f"the file cannot be read ({reason_of(error)})", str(file), "check its permissions and its disk"
        ) from None
    try:
        with safe_open(file, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return {
                name: Tensor(file, name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        found, what = file.stat().st_size, reason_of(error)
        if declared not in (None, found):
            what = f"{found:,} bytes where its header declares {declared:,}"
        raise InputError(f"the file is truncated or damaged ({what})", str(file), AGAIN) from None


def header_of(file: Path) -> bytes:
    """The header of a safetensors file, without its length; empty where the file has none.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 0 < length <= min(HEADER_BYTES, file.stat().st_size - 8):
            return b""
        return opened.read(length)


def _declared_bytes(file: Path) -> int | None:
    """The size that a safetensors file should have; None where its header is damaged too.

    Raises:
        OSError: the file cannot be read.
    """
    header = header_of(file)
    try:
        entries = [entry for name, entry in parse_object(header, str(file)).content.items() if name != "__metadata__"]
    except InputError:
        return None
    spans = [entry.get("data_offsets") for entry in entries if is_object(entry)]
    if len(spans) < len(entries) or not all(isinstance(span, list) and span and is_integer(span[-1]) for span in spans):
        return None
    return 8 + len(header) + max((span[-1] for span in spans), default=0)
