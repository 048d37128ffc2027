"""The geometry of Llama 3.2 Vision, read from a Hugging Face `config.json`."""

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
    whole_numbers,
)
from mmkp_jax.families.mllama.tiles import canvases
from mmkp_jax.models.decoder_config import DecoderConfig
from mmkp_jax.runtime.json_files import Fields

PERIOD, CROSS = 5, 3
"""Of every five layers of the decoder, the fourth is one of cross-attention: so in both published sizes."""

SPARE_ROWS = 8
"""Rows of the embedding beyond the vocabulary: the image token's, which the head does not have, and unused ones."""

PADDED = 8
"""The tower pads a tile's tokens to a multiple of this."""


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower's config; `image_size` (of a tile) and `patch_size` are in pixels."""

    depth: int
    """Layers of the first stage."""
    global_depth: int
    """Layers of the second stage, which are gated."""
    hidden_size: int
    intermediate_size: int
    num_heads: int
    image_size: int
    patch_size: int = 14
    max_tiles: int = 4
    taps: tuple[int, ...] = (3, 7, 15, 23, 30)
    """Layers whose inputs are features too, as the model was trained. transformers from 4.56 on takes their outputs."""
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tile_keys(self) -> int:
        """Tokens of a tile: its patches and its class token."""
        return self.patches + 1

    @property
    def padding(self) -> int:
        """Tokens of padding for each tile."""
        return -self.tile_keys % PADDED

    @property
    def slots(self) -> int:
        """Tokens of an image in the tower."""
        return self.max_tiles * (self.tile_keys + self.padding)

    @property
    def canvases(self) -> int:
        """Canvases of an image, which embeddings tell apart."""
        return len(canvases(self.max_tiles))

    @property
    def features(self) -> int:
        """Width of a token's features: the last layer's, and those of the taps."""
        return self.hidden_size * (1 + len(self.taps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MllamaConfig(DecoderConfig):
    """The model's config: its decoder's, whose `num_layers` are all of its layers, and the vision tower's."""

    vision: VisionConfig
    image_token_id: int = 128_256

    @property
    def cross_layers(self) -> int:
        """Layers of cross-attention."""
        return self.num_layers // PERIOD

    @property
    def self_layers(self) -> int:
        """Layers of attention to tokens."""
        return self.num_layers - self.cross_layers

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding."""
        return self.vocab_size + SPARE_ROWS


TEXT = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
}
VISION = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_global_layers": 8,
    "image_size": 448,
    "patch_size": 14,
    "max_num_tiles": 4,
    "norm_eps": 1e-5,
    "intermediate_layers_indices": [3, 7, 15, 23, 30],
    "vision_output_dim": 7680,
}
"""What transformers takes for absent fields: many folders hold only those that differ."""


def config_from_hf(published: Mapping[str, Any], where: str = "config.json") -> MllamaConfig:
    """The geometry in a `config.json` of Llama 3.2 Vision. A null is an absent field.

    Raises:
        InputError: a field is of another type, at odds with another, or asks for what is not implemented.
    """
    whole = present(Fields(published, where, HINT))
    text, vision = (present(whole.object(name, {})) for name in ("text_config", "vision_config"))
    refuse_changed(whole, text, vision)
    text, vision = (
        part._replace(content={**defaults, **part.content}) for part, defaults in ((text, TEXT), (vision, VISION))
    )
    for part in (whole, text):  # the head has fewer rows than the embedding
        insist(part, "tie_word_embeddings", False)
    insist(text, "dropout", 0.0, 0)
    decoder = read_decoder(text, read_rope(text, "default", "llama3"), qkv_bias=False, tie_embeddings=False)
    insist(text, "head_dim", decoder.hidden_size // decoder.num_heads)
    layers = [index for index in range(decoder.num_layers) if index % PERIOD == CROSS]
    if decoder.num_layers % PERIOD or list(whole_numbers(text, "cross_attention_layers")) != layers:
        what = f"every fifth layer from {CROSS} on, of a multiple of five, which is all that is implemented"
        text.refuse("cross_attention_layers", what)
    token = "image_token_index" if "image_token_index" in whole.content else "image_token_id"
    config = MllamaConfig(
        **{field.name: getattr(decoder, field.name) for field in dataclasses.fields(decoder)},
        vision=_tower(vision),
        image_token_id=whole.integer(token, 128_256),
    )
    _check_sizes(config, where)
    return config


def _tower(vision: Fields) -> VisionConfig:
    """The config of the vision tower."""
    insist(vision, "hidden_act", "gelu")
    insist(vision, "num_channels", 3)
    heads = "num_attention_heads" if "num_attention_heads" in vision.content else "attention_heads"
    tower = VisionConfig(
        depth=size(vision, "num_hidden_layers", most=MOST_LAYERS),
        global_depth=size(vision, "num_global_layers", most=MOST_LAYERS),
        hidden_size=size(vision, "hidden_size"),
        intermediate_size=size(vision, "intermediate_size"),
        num_heads=size(vision, heads, 16),
        image_size=side(vision, "image_size"),
        patch_size=side(vision, "patch_size"),
        max_tiles=size(vision, "max_num_tiles", most=64),
        taps=whole_numbers(vision, "intermediate_layers_indices"),
        norm_eps=positive(vision, "norm_eps"),
    )
    supported = [list(canvas) for canvas in canvases(tower.max_tiles)]
    if vision.content.get("supported_aspect_ratios", supported) != supported:
        vision.refuse("supported_aspect_ratios", f"every canvas of at most {tower.max_tiles} tiles, rows first")
    if vision.integer("vision_output_dim") != tower.features:
        what = f"{tower.features:,}: the hidden_size for the last layer and for each of intermediate_layers_indices"
        vision.refuse("vision_output_dim", what)
    return tower


def _check_sizes(config: MllamaConfig, where: str) -> None:
    """Checks that the sizes are consistent, and reports all problems at once."""
    tower = config.vision
    checks = {
        f"the image token {config.image_token_id} is not from 0 to {config.embedding_rows}, the embedding's rows": (
            0 <= config.image_token_id < config.embedding_rows
        ),
        f"the tower's hidden_size {tower.hidden_size} is no multiple of its attention_heads {tower.num_heads}": (
            tower.hidden_size % tower.num_heads == 0
        ),
        f"a tile of {tower.image_size} pixels is not made of patches of {tower.patch_size}": (
            tower.image_size % tower.patch_size == 0
        ),
        f"intermediate_layers_indices {list(tower.taps)} are not ascending layers of the tower's {tower.depth}": (
            list(tower.taps) == sorted({*tower.taps}) and all(tap < tower.depth for tap in tower.taps)
        ),
    }
    check_all(checks, where)
