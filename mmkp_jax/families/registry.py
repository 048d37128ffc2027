"""Model families by the `model_type` of their Hugging Face config."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import nnx

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.families.qwen2_5_vl.config import config_from_hf
from mmkp_jax.families.qwen2_5_vl.model import Qwen2_5_VL


class Family(NamedTuple):
    """How to read a family's config and build its module."""

    config_from_hf: Callable[[Mapping[str, Any], str], Any]
    build: Callable[..., nnx.Module]


FAMILIES = {"qwen2_5_vl": Family(config_from_hf, Qwen2_5_VL)}


def family_of(published: Mapping[str, Any], where: str) -> Family:
    """The family that a published `config.json` (read at `where`) belongs to.

    Raises:
        InputError: the architecture is not implemented.
    """
    kind = str(published.get("model_type"))
    if kind not in FAMILIES:
        raise InputError(
            f"model_type {kind!r} is not implemented{nearest(kind, FAMILIES)}",
            where,
            "point config.model.path at a checkpoint of a known architecture",
        )
    return FAMILIES[kind]
