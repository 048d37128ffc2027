"""The table of families: where each is, and the keys that a config has for its images; free of heavy imports."""

from typing import NamedTuple

from mmkp_jax.runtime.field_types import Field
from mmkp_jax.runtime.fields import FIELDS


class Known(NamedTuple):
    """A row of the table; a test compares it with the family's processor."""

    module: str
    """The module whose `FAMILY` is the family."""
    slots: tuple[str, ...] = ()
    """Kinds of slots of its images: keys of `config.row.images`."""
    settings: tuple[str, ...] = ()
    """Settings of its images: keys of `config.data.images`."""


FAMILIES = {
    "qwen2_5_vl": Known(
        "mmkp_jax.families.qwen2_5_vl.family",
        slots=("patches", "windows"),
        settings=("min_pixels", "max_pixels"),
    ),
    "qwen2": Known("mmkp_jax.families.qwen2.family"),
    "llama": Known("mmkp_jax.families.llama.family"),
}
"""The families by the `model_type` of their Hugging Face config."""

NEAREST = {
    "qwen2_vl": ("Qwen2-VL", "Qwen/Qwen2.5-VL-3B-Instruct"),
    "qwen2_5_omni": ("Qwen2.5-Omni", "Qwen/Qwen2.5-VL-3B-Instruct"),
    "qwen3_vl": ("Qwen3-VL", "Qwen/Qwen2.5-VL-3B-Instruct"),
    "qwen3_vl_moe": ("Qwen3-VL", "Qwen/Qwen2.5-VL-7B-Instruct"),
    "qwen2_moe": ("Qwen's mixture of experts", "Qwen/Qwen2.5-3B-Instruct"),
    "qwen3": ("Qwen3", "Qwen/Qwen2.5-3B-Instruct"),
    "qwen3_moe": ("Qwen3", "Qwen/Qwen2.5-7B-Instruct"),
    "llama4": ("Llama 4", "meta-llama/Llama-3.2-3B-Instruct"),
}
"""Models like those of `FAMILIES` that are not implemented, by `model_type`: the name, and the nearest that is."""


def fields() -> tuple[Field, ...]:
    """The table of fields, in which the mappings of images take the keys of any family, and no others."""
    keys = {
        "row.images": dict.fromkeys(key for family in FAMILIES.values() for key in family.slots),
        "data.images": dict.fromkeys(key for family in FAMILIES.values() for key in family.settings),
    }
    return tuple(field._replace(keys=tuple(keys.get(field.name, ()))) for field in FIELDS)
