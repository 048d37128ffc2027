"""A run's parameters as a Hugging Face folder that loads like the base that the run started from.

A file of tensors keeps the base's header, and so names, shapes, dtypes, order and shards. What trained is written
anew, rounded to the file's dtype; everything else, `config.json` included, is copied byte for byte.
"""

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mmkp_jax.errors import InputError
from mmkp_jax.hf.card import CARD
from mmkp_jax.hf.fetch import fetch
from mmkp_jax.hf.folder import CONFIG, FETCHED, Folder
from mmkp_jax.hf.load import find_tensors
from mmkp_jax.hf.merge import merged_tensors
from mmkp_jax.hf.names import Published, compact, pieces_of, published_name, published_tensors, source_of
from mmkp_jax.hf.preprocessor import with_settings
from mmkp_jax.hf.prompt_limits import PROMPT_LIMITS, PromptLimits
from mmkp_jax.hf.tensors import BLOCK_BYTES, DTYPES, INDEX, WEIGHTS, Tensor, read, reason_of
from mmkp_jax.models.definition import Definition, Params, base_shapes, flatten, unflatten
from mmkp_jax.models.nf4 import ABSMAX, CODES, is_quantised, quantise, unquantised_shape
from mmkp_jax.runtime.atomic import json_bytes, replacing_folder
from mmkp_jax.runtime.hosts import is_writer
from mmkp_jax.runtime.json_files import read_object

Make = Callable[[], np.ndarray]


class TensorCounts(NamedTuple):
    """Numbers of tensors in an exported folder."""

    trained: int
    copied: int


def export_folder(
    trained: Params,
    frozen: Params,
    base: Folder,
    out: Path,
    *,
    images: Mapping[str, int],
    limits: PromptLimits,
    card: str,
    replace: bool = False,
    definition: Definition | None = None,
) -> TensorCounts:
    """Writes the folder tensor by tensor; it appears atomically.

    In a run of several hosts, all call this; one writes.

    Args:
        trained: JAX arrays, sharded or not.
        frozen: the other parameters, only to check that the base is unchanged: its files are copied.
        base: the folder that the run started from.
        out: a folder that does not exist, or is empty, unless it is to be replaced.
        images: the run's settings of images (`config.data.images`).
        limits: the run's limits of prompts and completions, in the place of the base's, where it is an export.
        card: the text of the model card, which replaces the base's.
        replace: whether the folder may exist; it is replaced once the new one is complete.
        definition: the model whose parameters these are, where it has adapters, which are merged.

    Raises:
        InputError: `out` is not empty or cannot be written, or the base is not what the run started from.
    """
    settings = _changed(base, with_settings(base.path, base.family, images)) | {PROMPT_LIMITS: limits.content()}
    made = _made_anew(trained, frozen, base, definition)
    weights = sorted({tensor.file for tensor in base.tensors.values()})
    counts = TensorCounts(len(made), len(base.tensors) - len(made))
    if not is_writer():
        for file in weights:
            rewrite(file, Path(os.devnull), made)  # takes part in fetching each tensor
        return counts
    if not replace:
        check_out(out)
    with appearing(out) as unfinished:
        for file in base.path.iterdir():
            if _is_copied(file) and file.name not in settings:
                shutil.copyfile(file, unfinished / file.name)
        if base.path / WEIGHTS not in weights:
            shutil.copyfile(base.path / INDEX, unfinished / INDEX)
        config = settings.pop(CONFIG, None)
        for name, content in settings.items():
            (unfinished / name).write_bytes(json_bytes(content))
        (unfinished / CARD).write_text(card, encoding="utf-8")
        for file in weights:
            rewrite(file, unfinished / file.name, made)
        if config is None:
            shutil.copyfile(base.path / CONFIG, unfinished / CONFIG)  # last: a folder with it is complete
        else:
            (unfinished / CONFIG).write_bytes(json_bytes(config))
    return counts


def _changed(base: Folder, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The files whose content is not that of the base's: the others are copied byte for byte."""
    return {name: content for name, content in files.items() if content != read_object(base.path / name).content}


def check_out(out: Path) -> None:
    """Refuses, with `InputError`, an output path that exists and is not an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("this exists, and is not an empty folder", str(out), "give another --out, or remove it")


def rewrite(source: Path, target: Path, made: Mapping[str, Make]) -> None:
    """Copies a file of tensors, and replaces those in `made`, of which one is in memory at a time."""
    with source.open("rb") as old, target.open("wb") as new:
        length = old.read(8)
        header = old.read(int.from_bytes(length, "little"))
        new.write(length + header)
        spans = {name: entry["data_offsets"] for name, entry in json.loads(header).items() if name != "__metadata__"}
        for name, (start, end) in sorted(spans.items(), key=lambda span: span[1]):
            if name in made:
                new.write(made[name]().reshape(-1).view(np.uint8))
                continue
            old.seek(8 + len(header) + start)
            for at in range(start, end, BLOCK_BYTES):
                new.write(old.read(min(BLOCK_BYTES, end - at)))


def _made_anew(trained: Params, frozen: Params, base: Folder, definition: Definition | None) -> dict[str, Make]:
    """A function that makes each trained tensor, by its name in the base's files."""
    names = base.family.names
    arrays = flatten(trained) | flatten(frozen)
    shapes = {path: leaf.shape for path, leaf in flatten(base_shapes(unflatten(arrays))).items()}
    parts = published_tensors(shapes, names)
    found = find_tensors(base, parts, names)
    _check_frozen(flatten(frozen), parts, found, base)
    made = {
        found[name].name: functools.partial(_joined, [arrays[path] for path in paths], pieces, found[name].dtype)
        for name, (paths, pieces) in pieces_of(parts).items()
        if not flatten(trained).keys().isdisjoint(paths)
    }
    if definition is not None:
        made |= merged_tensors(definition, trained, parts, found)
    heads = {source_of(path, names).name: repeated for path, repeated in names.tied.items()}
    for name, tensor in base.tensors.items():
        repeated = heads.get(published_name(name, names))
        if repeated in flatten(trained) and tensor not in found.values():  # a tied checkpoint's own copy of its head
            made[name] = functools.partial(fetch, arrays[repeated], None, DTYPES[tensor.dtype])
    return made


def _joined(arrays: Sequence[jax.Array], parts: Sequence[Published], dtype: str) -> np.ndarray:
    """A whole published tensor from our parameters."""
    pieces = [fetch(array, part.layer, DTYPES[dtype]) for array, part in zip(arrays, parts, strict=True)]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _check_frozen(
    frozen: Mapping[str, jax.Array], parts: Mapping[str, list[Published]], found: Mapping[str, Tensor], base: Folder
) -> None:
    changed = []
    for path, array in frozen.items():
        if path.endswith(f".{ABSMAX}"):  # compared with its codes
            continue
        source, _ = unquantised_shape(path, array.shape)
        held = {CODES: array, ABSMAX: frozen[f"{source}.{ABSMAX}"]} if is_quantised(path) else {"": array}
        for part in parts[source]:
            tensor = part.of(found[part.name])
            theirs = read(tensor, (slice(None),) * len(tensor.shape))
            made = quantise(theirs) if is_quantised(path) else (theirs.astype(array.dtype, copy=False),)
            ours = (fetch(each, part.layer, each.dtype) for each in held.values())
            if not all(map(_same_bits, map(np.asarray, made), ours)):
                changed.append(tensor.name)
    if changed:
        raise InputError(
            f"tensors that did not train are not those that the run started from: {compact(dict.fromkeys(changed))}",
            str(base.path),
            "restore the base of the run (config.model.path)",
        )


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one.view(np.uint8), other.view(np.uint8))


def _is_copied(file: Path) -> bool:
    """Whether a file of the base is copied unchanged: all but the weights, their index, the card and the config."""
    if not any(file.match(pattern) for pattern in FETCHED) or not file.is_file():
        return False
    return file.suffix != ".safetensors" and not file.name.endswith(".index.json") and file.name not in (CARD, CONFIG)


def push(folder: Path, repo: str) -> str:
    """Uploads an exported folder to the hub, into a private repository, created if needed; returns its URL.

    The token is the one that huggingface_hub finds (`hf auth login`, or HF_TOKEN).

    Raises:
        InputError: the hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(repo, private=True, exist_ok=True)
        return str(hub.upload_folder(folder_path=folder, repo_id=repo, commit_message="Export of mmkp_jax").repo_url)
    except Exception as error:  # the network's, the hub's and the token's failures have no common class
        what = f"the hub does not accept it ({reason_of(error)})"
        hint = f"check the name, the network and the token (hf auth login); then: hf upload --private {repo} {folder}"
        raise InputError(what, repo, hint) from None


@contextlib.contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder to write into, which replaces `out` at the end; a failure leaves nothing."""
    try:
        with replacing_folder(out) as unfinished:
            yield unfinished
    except OSError as error:
        what = f"the export cannot be written ({error.strerror or error})"
        raise InputError(what, str(out.absolute()), "check free space and permissions") from None
