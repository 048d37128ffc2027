"""Model families by the `model_type` of their Hugging Face config; each is imported on demand."""

import importlib
from collections.abc import Mapping
from typing import Any

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.families.known import FAMILIES, NEAREST
from mmkp_jax.models.definition import Definition, define_from
from mmkp_jax.models.family import Family


def family_of(published: Mapping[str, Any], where: str) -> Family:
    """The family that a published `config.json` (read at `where`) belongs to.

    Raises:
        InputError: the architecture is not implemented.
    """
    kind = str(published.get("model_type"))
    if kind not in FAMILIES and kind in NEAREST:
        name, other = NEAREST[kind]
        what = f"{name} (model_type {kind!r}) is not implemented"
        raise InputError(what, where, f"take {other}, which is the nearest that is")
    if kind not in FAMILIES:
        raise InputError(
            f"model_type {kind!r} is not implemented{nearest(kind, FAMILIES)}",
            where,
            "point config.model.path at a checkpoint of a known architecture",
        )
    return importlib.import_module(FAMILIES[kind].module).FAMILY


def define(published: Mapping[str, Any], where: str = "config.json", **options: Any) -> Definition:
    """The model that a Hugging Face `config.json` (read at `where`) describes; `options` go to its module.

    Raises:
        InputError: the architecture or one of its settings is not implemented, or a field is missing.
    """
    family = family_of(published, where)
    return define_from(family, family.read_config(published, where), **options)


def known_config(hub_id: str) -> Mapping[str, Any] | None:
    """The `config.json` of a published model that is known without network access; None for any other."""
    for known in FAMILIES.values():
        if found := importlib.import_module(known.module).FAMILY.published.get(hub_id):
            return found
    return None
