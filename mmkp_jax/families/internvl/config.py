"""The geometry of InternVL3, read from a Hugging Face `config.json` in transformers' own layout (`-hf` folders)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmkp_jax.families.config_fields import (
    HINT,
    MOST_LAYERS,
    check_all,
    insist,
    positive,
    present,
    read_decoder,
    read_rope,
    refuse_changed,
    side,
    size,
)
from mmkp_jax.families.internvl.processor import MAX_TILES, MERGE
from mmkp_jax.models.decoder_config import DecoderConfig
from mmkp_jax.runtime.json_files import Fields

MODELS = "take OpenGVLab/InternVL3-2B-hf or OpenGVLab/InternVL3-8B-hf"
"""What to do about another model of the name: with InternLM as decoder, or the 6B tower."""

POSITIONS = 32_768
"""Positions of the published models."""


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower's config; `image_size` (of a tile) and `patch_size` are in pixels."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    image_size: int = 448
    patch_size: int = 14
    norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads

    @property
    def side(self) -> int:
        """Patches along a tile's side."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return self.side**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class InternVLConfig(DecoderConfig):
    """The model's config: its decoder's, with token numbers, tiles and vision tower."""

    vision: VisionConfig
    image_token_id: int = 151_667
    max_positions: int = POSITIONS
    max_tiles: int = MAX_TILES
    """Tiles of an image at most, without the thumbnail, where nothing else gives their number."""
    own_template: bool = True
    """Whether prompts follow the tokenizer's chat template; else the original layout's own code."""


TRANSFORMERS = {
    "downsample_ratio": 0.5,
    "projector_hidden_act": "gelu",
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
}
"""Fields of the whole that the model implements one value of; absent, they are these."""

TOWER = {
    "norm_type": "layer_norm",  # of the 300M tower; the 6B one of InternVL3-38B and -78B has other norms
    "use_qk_norm": False,
    "hidden_act": "gelu",
    "num_channels": 3,
    "use_mask_token": False,
    "use_absolute_position_embeddings": True,
    "use_mean_pooling": True,
}
"""Fields of the vision tower that the model implements one value of; absent, they are these."""


def config_from_hf(published: Mapping[str, Any], where: str = "config.json") -> InternVLConfig:
    """The geometry in a `config.json` of InternVL3 as transformers writes it. A null is an absent field.

    Raises:
        InputError: a field is missing, of another type, at odds with another, or asks for what is not implemented.
    """
    whole = present(Fields(published, where, HINT))
    text, vision = (present(whole.object(name)) for name in ("text_config", "vision_config"))
    refuse_changed(whole, text, vision)
    for part, known in ((whole, TRANSFORMERS), (vision, TOWER)):
        for name, value in known.items():
            insist(part, name, value, hint=MODELS)
    if vision.content.get("attention_bias") is not True:  # absent, it is false
        vision._replace(hint=MODELS).refuse("attention_bias", "True, which is all that is implemented")
    ties = {part.flag("tie_word_embeddings") for part in (whole, text) if "tie_word_embeddings" in part.content}
    tied = True if True in ties else whole.content.get("tie_word_embeddings")
    sides = {"image_size": side(vision, "image_size", 448), "patch_size": side(vision, "patch_size", 14)}
    config = InternVLConfig(
        **decoder_of(text, tied),
        vision=tower_of(vision, **sides),
        image_token_id=whole.integer("image_token_id", 151_667),
    )
    check_sizes(config, where)
    tokens = config.vision.patches // MERGE**2
    if whole.integer("image_seq_length", 256) != tokens:
        whole.refuse("image_seq_length", f"{tokens}, which a tile of {config.vision.image_size} pixels becomes")
    return config


def decoder_of(text: Fields, tied: bool | None) -> dict[str, Any]:
    """The fields of `InternVLConfig` that describe the decoder: a Qwen2.5.

    Its `dynamic` scaling of positions begins beyond `max_position_embeddings`, and rows are shorter: so it is none.
    """
    insist(text, "model_type", "qwen2", hint=MODELS)
    insist(text, "use_sliding_window", False, hint=MODELS)
    decoder = read_decoder(text, read_rope(text, "default", "dynamic"), qkv_bias=True, tie_embeddings=tied)
    fields = {field.name: getattr(decoder, field.name) for field in dataclasses.fields(decoder)}
    return fields | {"max_positions": size(text, "max_position_embeddings", POSITIONS)}


def tower_of(vision: Fields, **sizes: int) -> VisionConfig:
    """The config of the vision tower, whose sizes in pixels are given."""
    return VisionConfig(
        depth=size(vision, "num_hidden_layers", most=MOST_LAYERS),
        hidden_size=size(vision, "hidden_size"),
        intermediate_size=size(vision, "intermediate_size"),
        num_heads=size(vision, "num_attention_heads"),
        norm_eps=positive(vision, "layer_norm_eps", 1e-6),
        **sizes,
    )


def check_sizes(config: InternVLConfig, where: str) -> None:
    """Checks that the sizes of images are consistent, and reports all problems at once."""
    tower = config.vision
    checks = {
        f"the image token {config.image_token_id} is not from 0 to vocab_size {config.vocab_size}": (
            0 <= config.image_token_id < config.vocab_size
        ),
        f"the tower's hidden_size {tower.hidden_size} is no multiple of its num_attention_heads {tower.num_heads}": (
            tower.hidden_size % tower.num_heads == 0
        ),
        f"a tile of {tower.image_size} pixels is not made of merged patches of {MERGE * tower.patch_size}": (
            tower.image_size % (MERGE * tower.patch_size) == 0
        ),
    }
    check_all(checks, where)
