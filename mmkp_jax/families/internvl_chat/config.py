"""The geometry of InternVL3, read from a `config.json` in the original layout."""

from collections.abc import Mapping
from typing import Any

from mmkp_jax.families.config_fields import HINT, insist, present, refuse_changed, size
from mmkp_jax.families.internvl.config import MODELS, InternVLConfig, check_sizes, decoder_of, tower_of
from mmkp_jax.families.internvl.processor import MAX_TILES, MOST_TILES
from mmkp_jax.runtime.json_files import Fields

TOKENS_FROM_CONTEXT = 7
"""`<IMG_CONTEXT>` and the tokens after it are the last of the vocabulary; the config gives no number of its own."""

MODEL = {
    "ps_version": "v2",
    "template": "internvl2_5",
    "dynamic_image_size": True,
    "use_thumbnail": True,
}
"""Fields that must have these values: absent, they are others to the folder's own code."""

MODEL_DEFAULTS = {"downsample_ratio": 0.5, "select_layer": -1, "pad2square": False, "min_dynamic_patch": 1}
"""Fields that have these values, or are absent."""

TOWER = {"norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": False}
"""Fields of the vision tower that must have these values: the 6B tower of InternVL3-38B and -78B has others."""

TOWER_DEFAULTS = {"model_type": "intern_vit_6b", "hidden_act": "gelu", "num_channels": 3}
"""Fields of the vision tower that have these values, or are absent; the first is a name of the code, not a size."""


def config_from_chat(published: Mapping[str, Any], where: str = "config.json") -> InternVLConfig:
    """The geometry in a `config.json` of InternVL3's original layout. A null is an absent field.

    What the folder's own code does with a field is implemented here, and other values are refused.

    Raises:
        InputError: a field is missing, of another type, at odds with another, or asks for what is not implemented.
    """
    whole = present(Fields(published, where, HINT))
    text, vision = (present(whole.object(name)) for name in ("llm_config", "vision_config"))
    refuse_changed(whole, text, vision)
    for part, required, defaults in ((whole, MODEL, MODEL_DEFAULTS), (vision, TOWER, TOWER_DEFAULTS)):
        for name in required.keys() - part.content.keys():
            part.refuse(name, "given")
        for name, value in (required | defaults).items():
            insist(part, name, value, hint=MODELS)
    side = size(whole, "force_image_size", 448, most=10_000)
    insist(vision, "image_size", side)
    ties = [part.flag("tie_word_embeddings") for part in (whole, text) if "tie_word_embeddings" in part.content]
    decoder = decoder_of(text, any(ties) if ties else None)
    config = InternVLConfig(
        **decoder,
        vision=tower_of(vision, image_size=side, patch_size=size(vision, "patch_size", 14, most=10_000)),
        image_token_id=whole.integer("img_context_token_id", max(decoder["vocab_size"] - TOKENS_FROM_CONTEXT, 0)),
        max_tiles=size(whole, "max_dynamic_patch", MAX_TILES, most=MOST_TILES),
        own_template=False,
    )
    check_sizes(config, where)
    return config
