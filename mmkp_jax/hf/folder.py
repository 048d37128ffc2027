"""A Hugging Face model folder: its config, its tokenizer, and where each tensor lies. Never a pickle."""

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

from mmkp_jax.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "README.md", "LICENSE*")
"""Files that are taken from the hub."""

_VOCABULARY = ("vocab.json", "merges.txt")

_AGAIN = "download the checkpoint again"


class Tensor(NamedTuple):
    """Where a tensor lies, under which name, and what its file's header says of it."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors calls it: `BF16`, `F32`, ..."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder with a readable config, a tokenizer and whole safetensors files."""

    path: Path
    config: dict[str, Any]
    """The `config.json` as it stands."""
    tensors: dict[str, Tensor]
    """By the name in the file."""


def open_folder(path: str) -> Folder:
    """Opens a local folder or, where there is none, fetches the hub's `owner/name`. Reads headers only.

    Raises:
        InputError: the folder cannot be had, or something in it is missing or damaged.
    """
    local = _locate(path)
    if not _is_there(local / CONFIG):
        raise InputError(f"the folder has no {CONFIG}", str(local), "give the folder of a Hugging Face checkpoint")
    config = read_json(local / CONFIG)
    if not _is_there(local / "tokenizer.json") and not all(_is_there(local / name) for name in _VOCABULARY):
        raise InputError(
            "the folder has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt",
            str(local),
            "copy the tokenizer's files from the base checkpoint",
        )
    return Folder(local, config, _read_tensors(local))


def digests(folder: Folder) -> dict[str, str]:
    """SHA-256 of each file that decides what the model is, by name; of a file of tensors only of its header."""
    named = {file.name: file for pattern in FETCHED for file in folder.path.glob(pattern) if file.is_file()}
    deciding = {name: file for name, file in sorted(named.items()) if not name.startswith(("README", "LICENSE"))}
    return {name: hashlib.sha256(_deciding(file)).hexdigest() for name, file in deciding.items()}


def _deciding(file: Path) -> bytes:
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with file.open("rb") as opened:
        return opened.read(int.from_bytes(opened.read(8), "little"))


def load_tokenizer(folder: Folder) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer, as transformers reads it; no code of the folder's own is run.

    Raises:
        InputError: transformers cannot read it.
    """
    from transformers import AutoTokenizer  # here, as it takes a second to import

    try:
        return AutoTokenizer.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises a bare Exception for a damaged file
        raise InputError(
            f"transformers cannot read the tokenizer ({reason_of(error)})",
            str(folder.path),
            "copy the tokenizer's files from the base checkpoint",
        ) from None


def _locate(path: str) -> Path:
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        raise InputError("this is a file, not a folder", path, "give the folder that holds config.json")
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", path):
        raise InputError(
            "there is no such folder",
            path,
            "give a local folder or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=list(FETCHED)))
    except Exception as error:  # the network's, the hub's and the disk's failures have no class in common
        raise InputError(
            f"there is no such folder, and the hub does not give it ({reason_of(error)})",
            path,
            "check the name, the network and, for a gated model, HF_TOKEN; or give a local folder",
        ) from None


def _is_there(file: Path) -> bool:
    """Whether there is such a file.

    Raises:
        InputError: there is a link, and no file where it points, as after a hub's cache was moved or cleaned.
    """
    if not file.is_file() and file.is_symlink():
        raise InputError(
            f"this is a link to {os.readlink(file)}, and no file is there",
            str(file),
            "copy the folder with what its links point to, or download the checkpoint again",
        )
    return file.is_file()


def reason_of(error: Exception) -> str:
    """An error of another library in a line: its class, and the first line of what it says."""
    return " ".join([type(error).__name__ + ":", *str(error).splitlines()[:1]])


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: it cannot be read, or is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # unreadable, not UTF-8, or not JSON
        raise InputError(f"this cannot be read as JSON ({reason_of(error)})", str(file), _AGAIN) from None
    if not isinstance(content, dict):
        raise InputError("this is not a JSON object", str(file), _AGAIN)
    return content


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if _is_there(path / WEIGHTS):
        return _read_header(path / WEIGHTS)
    if _is_there(path / INDEX):
        return _read_indexed(path)
    absent = f"the folder has neither {WEIGHTS} nor {INDEX}"
    if pickles := sorted(file.name for file in path.glob("pytorch_model*.bin")):
        raise InputError(
            f"{absent}, and pickles such as {pickles[0]} are never opened",
            str(path),
            "save the model as safetensors with transformers' save_pretrained",
        )
    raise InputError(absent, str(path), _AGAIN)


def _read_indexed(path: Path) -> dict[str, Tensor]:
    index = path / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise InputError("the index has no weight_map of tensor names to files", str(index), _AGAIN)
    files = sorted(set(weight_map.values()))
    if absent := [file for file in files if not _is_there(path / file)]:
        raise InputError(f"the index names files that are not there: {', '.join(absent)}", str(index), _AGAIN)
    headers = {file: _read_header(path / file) for file in files}
    if lacking := [f"{name} ({file})" for name, file in weight_map.items() if name not in headers[file]]:
        raise InputError(f"the index names tensors that their file lacks: {', '.join(lacking)}", str(index), _AGAIN)
    return {name: headers[file][name] for name, file in weight_map.items()}


def _read_header(file: Path) -> dict[str, Tensor]:
    try:
        declared = _declared_bytes(file)
    except OSError as error:  # asked first, as safetensors takes any failure to open for an absent file
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
            what = f"{found:,} bytes where its header tells of {declared:,}"
        raise InputError(f"the file is truncated or damaged ({what})", str(file), _AGAIN) from None


def _declared_bytes(file: Path) -> int | None:
    """The size that a safetensors file should have; None where its header is damaged too.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 0 < length <= file.stat().st_size - 8:
            return None
        text = opened.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        return 8 + length + max(entry["data_offsets"][1] for entry in header.values())
    except (ValueError, AttributeError, TypeError, KeyError, IndexError):
        return None
