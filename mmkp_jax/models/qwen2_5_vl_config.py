"""The geometry of Qwen2.5-VL, read from a Hugging Face `config.json`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmkp_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower. Sizes in units of their own kind; `window_size` and `patch_size` in pixels."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    full_attention_layers: tuple[int, ...] = (7, 15, 23, 31)
    window_size: int = 112
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    in_channels: int = 3

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
    """The decoder, the token numbers, and the vision tower."""

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


PUBLISHED_VISION = VisionConfig(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=2048)
"""The tower of the published 3B; the 7B differs in `out_hidden_size` only."""

QWEN2_5_VL_3B = Qwen2_5_VLConfig(
    vocab_size=151_936,
    hidden_size=2048,
    intermediate_size=11_008,
    num_layers=36,
    num_heads=16,
    num_kv_heads=2,
    vision=PUBLISHED_VISION,
    tie_embeddings=True,
)
QWEN2_5_VL_7B = Qwen2_5_VLConfig(
    vocab_size=152_064,
    hidden_size=3584,
    intermediate_size=18_944,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    vision=dataclasses.replace(PUBLISHED_VISION, out_hidden_size=3584),
    tie_embeddings=False,
)


def config_from_hf(published: Mapping[str, Any], where: str = "config.json") -> Qwen2_5_VLConfig:
    """The geometry in a `config.json` of Qwen2.5-VL: the published flat layout, or transformers 5's nested one.

    Raises:
        InputError: a field is missing, or asks for what this model does not do.
    """
    text = {**published, **published.get("text_config", {})}
    vision = published.get("vision_config", {})
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}

    def take(table: Mapping[str, Any], part: str, *names: str) -> Any:
        for name in names:
            if table.get(name) is not None:
                return table[name]
        raise InputError(f"the {part} has no {names[0]!r}", where, "take the config.json published with the weights")

    def insist(name: str, value: Any, *supported: Any) -> None:
        if value not in supported:
            raise InputError(
                f"{name} is {value!r}",
                where,
                f"only {supported[0]!r} is implemented; use a checkpoint that has it",
            )

    insist("hidden_act", text.get("hidden_act", "silu"), "silu")
    insist("vision_config.hidden_act", vision.get("hidden_act", "silu"), "silu")
    insist("use_sliding_window", text.get("use_sliding_window") or False, False)
    insist("rope type", rope.get("rope_type", rope.get("type", "default")), "default", "mrope")

    tower = VisionConfig(
        depth=take(vision, "vision_config", "depth"),
        hidden_size=take(vision, "vision_config", "hidden_size"),
        intermediate_size=take(vision, "vision_config", "intermediate_size"),
        num_heads=take(vision, "vision_config", "num_heads"),
        out_hidden_size=take(vision, "vision_config", "out_hidden_size"),
        full_attention_layers=tuple(take(vision, "vision_config", "fullatt_block_indexes")),
        window_size=take(vision, "vision_config", "window_size"),
        patch_size=take(vision, "vision_config", "patch_size"),
        merge_size=take(vision, "vision_config", "spatial_merge_size"),
        temporal_patch_size=vision.get("temporal_patch_size", 2),
        in_channels=vision.get("in_channels", vision.get("in_chans", 3)),
    )
    return Qwen2_5_VLConfig(
        vocab_size=take(text, "text config", "vocab_size"),
        hidden_size=take(text, "text config", "hidden_size"),
        intermediate_size=take(text, "text config", "intermediate_size"),
        num_layers=take(text, "text config", "num_hidden_layers"),
        num_heads=take(text, "text config", "num_attention_heads"),
        num_kv_heads=take(text, "text config", "num_key_value_heads"),
        vision=tower,
        tie_embeddings=bool(published.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
        rms_norm_eps=take(text, "text config", "rms_norm_eps"),
        rope_theta=float(take({**text, **rope}, "text config", "rope_theta")),
        mrope_section=tuple(take(rope, "rope parameters", "mrope_section")),
        image_token_id=take(published, "config", "image_token_id"),
    )
