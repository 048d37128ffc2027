"""The geometry of Qwen2.5-VL, read from a Hugging Face `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.families.qwen2_5_vl.processor import MERGE, PATCH
from mmkp_jax.runtime.json_files import Fields, is_integer

_HINT = "take the config.json published with the weights"

_LAYERS, _SIZE = 1_000, 10_000_000
"""Upper limits of the number of layers, and of every other size, in a file."""

_REFUSED = ("quantization_config", "compression_config", "per_layer_config")
"""Fields that would change what transformers computes."""


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower's config; `window_size` and `patch_size` are in pixels."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    full_attention_layers: tuple[int, ...] = (7, 15, 23, 31)
    window_size: int = 112
    patch_size: int = PATCH
    merge_size: int = MERGE
    temporal_patch_size: int = 2
    in_channels: int = 3
    rope_theta: float = 10_000.0

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads

    @property
    def window_side(self) -> int:
        """Merged patches along a window's side."""
        return self.window_size // self.patch_size // self.merge_size

    @property
    def tile_size(self) -> int:
        """Patches of a whole window."""
        return (self.window_side * self.merge_size) ** 2


@dataclasses.dataclass(frozen=True)
class Qwen2_5_VLConfig:
    """The model's config: decoder, token numbers and vision tower."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vision: VisionConfig
    tie_embeddings: bool
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    image_token_id: int = 151_655

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads


def config_from_hf(published: Mapping[str, Any], where: str = "config.json") -> Qwen2_5_VLConfig:
    """The geometry in a `config.json` of Qwen2.5-VL: the published flat layout, or transformers 5's nested one.

    Where two fields give one number, the one that transformers 5.23 uses counts: `text_config` alone where there is
    one, `rope_scaling` before `rope_parameters`, a `rope_theta` inside them before one outside. A field that
    transformers would use and this model does not is refused. A null is an absent field.

    Raises:
        InputError: a field is missing, of another type, at odds with another, or asks for what is not implemented.
    """
    whole = _present(Fields(published, where, _HINT))
    text = _present(whole.object("text_config")) if "text_config" in whole.content else whole
    vision = _present(whole.object("vision_config"))
    for part in (whole, text, vision):
        for name in _REFUSED:
            if name in part.content:
                part.refuse(name, "absent, which is all that is implemented")
    tower = _tower(vision)
    rope = _rope(text)
    _insist(rope, "rope_type" if "rope_type" in rope.content else "type", "default", "mrope")
    _insist(text, "hidden_act", "silu", "swish")
    _insist(text, "use_sliding_window", False)
    config = Qwen2_5_VLConfig(
        vocab_size=_size(text, "vocab_size"),
        hidden_size=_size(text, "hidden_size"),
        intermediate_size=_size(text, "intermediate_size"),
        num_layers=_size(text, "num_hidden_layers", most=_LAYERS),
        num_heads=_size(text, "num_attention_heads"),
        num_kv_heads=_size(text, "num_key_value_heads"),
        vision=tower,
        tie_embeddings=whole.flag("tie_word_embeddings", False) or text.flag("tie_word_embeddings", False),
        rms_norm_eps=_positive(text, "rms_norm_eps"),
        rope_theta=_positive(rope if "rope_theta" in rope.content else text, "rope_theta", 1_000_000.0),
        mrope_section=_whole_numbers(rope, "mrope_section", (16, 24, 24)),
        image_token_id=whole.integer("image_token_id"),
    )
    _insist(text, "head_dim", config.head_dim)
    kinds = text.texts("layer_types", ["full_attention"] * config.num_layers)
    if kinds != ["full_attention"] * config.num_layers:
        text.refuse("layer_types", f"{config.num_layers} times 'full_attention', which is all that is implemented")
    _check_sizes(config, where)
    return config


def _tower(vision: Fields) -> VisionConfig:
    """The config of the vision tower."""
    rope = _rope(vision)
    _insist(rope, "rope_type" if "rope_type" in rope.content else "type", "default", "axial")
    _insist(vision, "hidden_act", "silu", "swish")
    for name in ("in_channels", "in_chans"):
        _insist(vision, name, 3)
    _insist(vision, "patch_size", PATCH)
    _insist(vision, "spatial_merge_size", MERGE)
    tower = VisionConfig(
        depth=_size(vision, "depth", most=_LAYERS),
        hidden_size=_size(vision, "hidden_size"),
        intermediate_size=_size(vision, "intermediate_size"),
        num_heads=_size(vision, "num_heads"),
        out_hidden_size=_size(vision, "out_hidden_size"),
        full_attention_layers=_whole_numbers(vision, "fullatt_block_indexes"),
        window_size=_size(vision, "window_size"),
        temporal_patch_size=_size(vision, "temporal_patch_size", 2, most=64),
        rope_theta=_positive(rope if "rope_theta" in rope.content else vision, "rope_theta", 10_000.0),
    )
    # transformers accepts these names for the same numbers, and takes the head's width from `head_dim` if given
    _insist(vision, "num_hidden_layers", tower.depth)
    _insist(vision, "num_attention_heads", tower.num_heads)
    _insist(vision, "head_dim", tower.head_dim)
    return tower


def _rope(part: Fields) -> Fields:
    """The fields of the rotary embedding: in transformers `rope_scaling` has priority, unless it is empty."""
    names = [name for name in ("rope_scaling", "rope_parameters") if part.object(name, {}).content]
    rope = _present(part.object(names[0] if names else "rope_scaling", {}))
    for name, value in rope.content.items():
        if isinstance(value, Mapping):
            rope.refuse(name, "a number: parameters of kinds of layers are not implemented")
    return rope


def _present(fields: Fields) -> Fields:
    """The fields without nulls."""
    return fields._replace(content={name: value for name, value in fields.content.items() if value is not None})


def _size(fields: Fields, name: str, *default: int, most: int = _SIZE) -> int:
    """A whole number from 1 to `most`."""
    value = fields.integer(name, *default)
    if not 1 <= value <= most:
        fields.refuse(name, f"a whole number from 1 to {most:,}")
    return value


def _positive(fields: Fields, name: str, *default: float) -> float:
    """A number above 0."""
    value = fields.number(name, *default)
    if not value > 0:
        fields.refuse(name, "a number above 0")
    return float(value)


def _whole_numbers(fields: Fields, name: str, *default: tuple[int, ...]) -> tuple[int, ...]:
    """A list of whole numbers from 0 on."""
    values = fields.numbers(name, *default)
    if not all(is_integer(value) and value >= 0 for value in values):
        fields.refuse(name, "a list of whole numbers from 0 on")
    return tuple(values)


def _insist(fields: Fields, name: str, *supported: Any) -> None:
    """Refuses a value that is not among `supported`; an absent one is the first of them."""
    value = fields.content.get(name, supported[0])
    if value not in supported or isinstance(value, bool) != isinstance(supported[0], bool):
        fields.refuse(name, f"{supported[0]!r}, which is all that is implemented")


def _check_sizes(config: Qwen2_5_VLConfig, where: str) -> None:
    """Checks that the sizes are consistent, and reports all problems at once."""
    D, N, K = config.hidden_size, config.num_heads, config.num_kv_heads
    section, tower = config.mrope_section, config.vision
    checks = {
        f"hidden_size {D} is no multiple of num_attention_heads {N}": D % N == 0,
        f"num_attention_heads {N} is no multiple of num_key_value_heads {K}": N % K == 0,
        f"mrope_section {list(section)} is not three numbers that sum to half of a head's width {config.head_dim}": (
            len(section) == 3 and 2 * sum(section) == config.head_dim
        ),
        f"image_token_id {config.image_token_id} is not below vocab_size {config.vocab_size}": (
            config.image_token_id < config.vocab_size
        ),
        f"vision_config.hidden_size {tower.hidden_size} is no multiple of 4 times its num_heads {tower.num_heads}": (
            tower.hidden_size % (4 * tower.num_heads) == 0  # a head rotates pairs by row and pairs by column
        ),
        f"vision_config.out_hidden_size {tower.out_hidden_size} is not hidden_size {D}": tower.out_hidden_size == D,
        f"fullatt_block_indexes {list(tower.full_attention_layers)} goes beyond the tower's depth {tower.depth}": (
            all(layer < tower.depth for layer in tower.full_attention_layers)
        ),
        f"window_size {tower.window_size} is less than a merged patch": tower.window_side > 0,
    }
    if wrong := [what for what, holds in checks.items() if not holds]:
        raise InputError("; ".join(wrong), where, _HINT)
