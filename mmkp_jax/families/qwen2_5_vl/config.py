"""The geometry of Qwen2.5-VL, read from a Hugging Face `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from mmkp_jax.families.config_fields import (
    HINT,
    MOST_LAYERS,
    check_all,
    insist,
    positive,
    present,
    refuse_changed,
    rope_fields,
    rope_type,
    size,
    whole_numbers,
)
from mmkp_jax.families.qwen2_5_vl.processor import MERGE, PATCH
from mmkp_jax.runtime.json_files import Fields

FULL_ATTENTION = "take a model without sliding windows, such as Qwen/Qwen2.5-VL-3B-Instruct"


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

    qkv_bias: ClassVar[bool] = True

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
    whole = present(Fields(published, where, HINT))
    text = present(whole.object("text_config")) if "text_config" in whole.content else whole
    vision = present(whole.object("vision_config"))
    refuse_changed(whole, text, vision)
    tower = _tower(vision)
    rope = rope_fields(text)
    insist(rope, rope_type(rope), "default", "mrope")
    insist(text, "hidden_act", "silu", "swish")
    insist(text, "use_sliding_window", False, hint=FULL_ATTENTION)
    config = Qwen2_5_VLConfig(
        vocab_size=size(text, "vocab_size"),
        hidden_size=size(text, "hidden_size"),
        intermediate_size=size(text, "intermediate_size"),
        num_layers=size(text, "num_hidden_layers", most=MOST_LAYERS),
        num_heads=size(text, "num_attention_heads"),
        num_kv_heads=size(text, "num_key_value_heads"),
        vision=tower,
        tie_embeddings=whole.flag("tie_word_embeddings", False) or text.flag("tie_word_embeddings", False),
        rms_norm_eps=positive(text, "rms_norm_eps"),
        rope_theta=positive(rope if "rope_theta" in rope.content else text, "rope_theta", 1_000_000.0),
        mrope_section=whole_numbers(rope, "mrope_section", (16, 24, 24)),
        image_token_id=whole.integer("image_token_id"),
    )
    insist(text, "head_dim", config.head_dim)
    kinds = text.texts("layer_types", ["full_attention"] * config.num_layers)
    if kinds != ["full_attention"] * config.num_layers:
        text = text._replace(hint=FULL_ATTENTION)
        text.refuse("layer_types", f"{config.num_layers} times 'full_attention', which is all that is implemented")
    _check_sizes(config, where)
    return config


def _tower(vision: Fields) -> VisionConfig:
    """The config of the vision tower."""
    rope = rope_fields(vision)
    insist(rope, rope_type(rope), "default", "axial")
    insist(vision, "hidden_act", "silu", "swish")
    for name in ("in_channels", "in_chans"):
        insist(vision, name, 3)
    insist(vision, "patch_size", PATCH)
    insist(vision, "spatial_merge_size", MERGE)
    tower = VisionConfig(
        depth=size(vision, "depth", most=MOST_LAYERS),
        hidden_size=size(vision, "hidden_size"),
        intermediate_size=size(vision, "intermediate_size"),
        num_heads=size(vision, "num_heads"),
        out_hidden_size=size(vision, "out_hidden_size"),
        full_attention_layers=whole_numbers(vision, "fullatt_block_indexes"),
        window_size=size(vision, "window_size"),
        temporal_patch_size=size(vision, "temporal_patch_size", 2, most=64),
        rope_theta=positive(rope if "rope_theta" in rope.content else vision, "rope_theta", 10_000.0),
    )
    # transformers accepts these names for the same numbers, and takes the head's width from `head_dim` if given
    insist(vision, "num_hidden_layers", tower.depth)
    insist(vision, "num_attention_heads", tower.num_heads)
    insist(vision, "head_dim", tower.head_dim)
    return tower


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
    check_all(checks, where)
