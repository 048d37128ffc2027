"""PEFT's adapters: `adapter_config.json` and `adapter_model.safetensors`, written and read (PEFT 0.21's LoRA).

PEFT names tensors by the modules of transformers' model: `base_model.model.` and a module's path. The written pattern
of targets matches exactly the modules that have an adapter, so that PEFT builds what the tensors fill.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mmkp_jax.errors import InputError
from mmkp_jax.hf.card_lora import not_served
from mmkp_jax.hf.fetch import fetch
from mmkp_jax.hf.folder import ADAPTER
from mmkp_jax.hf.load import load_tensors
from mmkp_jax.hf.names import Published, compact, pieces_of, published_tensors
from mmkp_jax.hf.plain_lora import check_plain
from mmkp_jax.hf.tensors import DTYPES, Tensor, is_there, read_header
from mmkp_jax.models.definition import Definition, Params, define_from, flatten, unflatten
from mmkp_jax.models.family import Family
from mmkp_jax.models.freezing import split_trained
from mmkp_jax.models.lora import AS_TARGETS, FULL, NF4, Lora, inside, is_adapter, is_in, module_path
from mmkp_jax.runtime.atomic import json_bytes
from mmkp_jax.runtime.json_files import Fields, read_object

ADAPTER_WEIGHTS = "adapter_model.safetensors"

ADAPTER_FILES = (ADAPTER, ADAPTER_WEIGHTS)

PREFIX = "base_model.model."
"""PEFT's prefix of every tensor's name."""

_AGAIN = "give an adapter that PEFT wrote for this model"


def config_json(definition: Definition, base: str) -> dict[str, Any]:
    """The `adapter_config.json`: the fields that readers of all ages know.

    Args:
        base: hub id or path of the base.
    """
    lora = definition.lora
    return {
        "peft_type": "LORA",
        "task_type": definition.family.reference.peft_task,
        "base_model_name_or_path": base,
        "revision": None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": _pattern(definition, definition.family),
        "exclude_modules": None,
        "modules_to_save": _in_full(definition),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": lora.rs,
        "use_dora": False,
        "init_lora_weights": True,
        "rank_pattern": {},
        "alpha_pattern": {},
        "layers_to_transform": None,
        "layers_pattern": None,
    }


def adapter_tensors(definition: Definition, trained: Params) -> dict[str, np.ndarray]:
    """The adapter's tensors by name, float32; of several hosts, all call this.

    Args:
        trained: the parameters that train: adapters, and perhaps the projector.
    """
    arrays, single = flatten(trained), np.dtype(np.float32)
    pieces = pieces_of(_tensors({path: array.shape for path, array in arrays.items()}, definition))
    return {
        name: np.concatenate([fetch(arrays[path], part.layer, single) for path, part in zip(paths, parts, strict=True)])
        for name, (paths, parts) in pieces.items()
    }


def write_adapter(tensors: Mapping[str, np.ndarray], definition: Definition, base: str, path: Path) -> None:
    """Writes an adapter's two files into an existing folder.

    Args:
        base: hub id or path of the base.
    """
    save_file(dict(tensors), path / ADAPTER_WEIGHTS, {"format": "pt"})
    (path / ADAPTER).write_bytes(json_bytes(config_json(definition, base)))


def write_renamed(adapter: Path, definition: Definition, other: Definition, path: Path) -> None:
    """Writes an adapter of a model for the same model in another layout, whose tensors have other names.

    Args:
        adapter: folder of an adapter of `definition`'s model.
        other: the model in the other layout, without adapters.
        path: an existing folder.

    Raises:
        InputError: as `read_lora` and `load_adapter`.
    """
    here = define_from(definition.family, definition.config, lora=read_lora(adapter, definition.family))
    there = define_from(other.family, other.config, lora=here.lora._replace(targets=(_pattern(here, other.family),)))
    trained = flatten(load_adapter(here, str(adapter), split_trained(here, here.shapes(), ())[0]))
    arrays = {path: leaf for path, leaf in trained.items() if not is_adapter(path)}
    for linear, pair in there.adapters.items():
        arrays |= {pair.a: trained[here.adapters[linear].a], pair.b: trained[here.adapters[linear].b]}
    write_adapter(adapter_tensors(there, unflatten(arrays)), there, "", path)


def notes_on(lora: Lora | None, family: Family, *, adapter: bool) -> list[str]:
    """What a user should know of an export of a run, each in a line."""
    if lora is None:
        return []
    why = not_served(lora.rank, lora.projector, family) if adapter else ""
    notes = [f"vLLM cannot serve this adapter: {why}; export without --adapter"] if why else []
    if lora.base == NF4:
        where = "for" if adapter else "merged into"
        notes.append(f"trained on a base in 4 bits (NF4), {where} the base's own weights: not quite what was trained")
    return notes


def read_lora(folder: Path, family: Family) -> Lora:
    """The LoRA of an adapter's folder, whose targets are exactly the modules that it has tensors for.

    Raises:
        InputError: the folder holds no adapter, or one that is more than plain LoRA.
    """
    fields = _config(folder)
    rank, alpha = fields.integer("r"), fields.number("lora_alpha")
    if rank < 1:
        fields.refuse("r", "a whole number from 1")
    names = [name.removeprefix(PREFIX) for name in _found(folder)]
    modules = {name.removesuffix(".lora_A.weight") for name in names if name.endswith(".lora_A.weight")}
    return Lora(
        rank=rank,
        alpha=float(alpha),
        targets=("|".join(sorted(map(re.escape, modules))),) if modules else (),
        rs=fields.flag("use_rslora", False),
        projector=FULL if fields.content.get("modules_to_save") else AS_TARGETS,
    )


def load_adapter(definition: Definition, path: str, target: Params) -> Params:
    """Loads an adapter of the model: those parameters of `target` that it has.

    Args:
        path: the adapter's folder.
        target: `jax.ShapeDtypeStruct`s of the parameters that train, as for `hf.load.load_params`.

    Raises:
        InputError: as `check_adapter`.
    """
    structs, wanted, found = check_adapter(definition, path, target)
    return load_tensors(structs, wanted, found)


def check_adapter(
    definition: Definition, path: str, target: Params
) -> tuple[Params, dict[str, list[Published]], dict[str, Tensor]]:
    """Checks the header of an adapter's file, and its config, against the model.

    Args:
        path, target: as for `load_adapter`.

    Returns:
        The parameters that the adapter has, the tensors of each by its path, and the location of each tensor by its
        name.

    Raises:
        InputError: the folder holds no adapter, or another rank, scale or other modules than `definition` has.
    """
    folder, lora = Path(path).expanduser(), definition.lora
    theirs = read_lora(folder, definition.family)
    here, there = ({"r": each.rank, "lora_alpha": each.alpha, "use_rslora": each.rs} for each in (lora, theirs))
    if other := [f"{name} is {there[name]}, not {here[name]}" for name in here if here[name] != there[name]]:
        flags = {"r": "lora_rank", "lora_alpha": "lora_alpha", "use_rslora": "lora_rs"}
        changes = (f"--config.{flags[name]}={_shown(there[name])}" for name in here if here[name] != there[name])
        hint = f"give {' '.join(changes)}, or another adapter"
        raise InputError(f"its {', '.join(other)} as in the config", str(folder / ADAPTER), hint)
    structs = flatten(target)
    if theirs.projector != FULL:  # a projector that trains in full then starts as the base's
        structs = {path: struct for path, struct in structs.items() if is_adapter(path)}
    wanted = _tensors({path: struct.shape for path, struct in structs.items()}, definition)
    found = _found(folder)
    _check(wanted, found, folder)
    return unflatten(structs), wanted, found


def _shown(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _pattern(definition: Definition, family: Family) -> str:
    """A regex of exactly the modules that have an adapter, by the paths that they have in `family`'s layout."""
    paths = {module_path(path, family.names) for path in definition.adapters}
    return "|".join(sorted(re.escape(path).replace(r"\{\}", r"\d+") for path in paths))


def _config(folder: Path) -> Fields:
    if not is_there(folder / ADAPTER) or not is_there(folder / ADAPTER_WEIGHTS):
        what = f"the folder has no {ADAPTER} with {ADAPTER_WEIGHTS}"
        raise InputError(what, str(folder), "give the folder of an adapter as PEFT saves it")
    fields = read_object(folder / ADAPTER, _AGAIN)
    if fields.text("peft_type") != "LORA":
        fields.refuse("peft_type", "LORA, which is all that is implemented")
    check_plain(fields)
    return fields


def _found(folder: Path) -> dict[str, Tensor]:
    return read_header(folder / ADAPTER_WEIGHTS)


def _tensors(shapes: Mapping[str, tuple[int, ...]], definition: Definition) -> dict[str, list[Published]]:
    """The adapter's tensors, by the paths of the parameters that they are."""
    of_adapters = {path: shape for path, shape in shapes.items() if is_adapter(path)}
    names = definition.family.names
    whole = published_tensors({path: shape for path, shape in shapes.items() if path not in of_adapters}, names)
    tensors = {
        path: [part._replace(name=inside(part.name, names)) for part in parts] for path, parts in whole.items()
    } | published_tensors(of_adapters, definition.adapter_names)
    return {path: [part._replace(name=PREFIX + part.name) for part in parts] for path, parts in tensors.items()}


def _check(wanted: Mapping[str, list[Published]], found: Mapping[str, Tensor], folder: Path) -> None:
    """Refuses, with all differences in one `InputError`, tensors that are not exactly the wanted ones.

    PEFT itself only warns of a part that it does not find: the model would be another, silently.
    """
    shapes = {part.name: part.shape for parts in wanted.values() for part in parts}
    problems = {
        "missing": [name for name in shapes if name not in found],
        "unexpected": [name for name in found if name not in shapes],
        "of another shape": [name for name in shapes if name in found and found[name].shape != shapes[name]],
        "no floats of 16 or 32 bits": [name for name, tensor in found.items() if tensor.dtype not in DTYPES],
    }
    if any(problems.values()):
        what = "; ".join(f"{problem}: {compact(names)}" for problem, names in problems.items() if names)
        hint = (
            "give an adapter of this model; in training, config.lora_targets and config.lora_projector as it has them"
        )
        raise InputError(what, str(folder / ADAPTER_WEIGHTS), hint)


def _in_full(definition: Definition) -> list[str] | None:
    """PEFT's `modules_to_save`: the module that holds all of the projector, where that trains in full."""
    if definition.lora.projector != FULL:
        return None
    prefixes = definition.family.parts().get("projector", ())
    shapes = {path: leaf.shape for path, leaf in flatten(definition.base_shapes()).items() if is_in(path, prefixes)}
    parts = published_tensors(shapes, definition.family.names).values()
    paths = [inside(part.name, definition.family.names).split(".")[:-1] for of in parts for part in of]
    if not paths:
        return None
    first, last = min(paths), max(paths)
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return [".".join(name for name, _ in shared)]
