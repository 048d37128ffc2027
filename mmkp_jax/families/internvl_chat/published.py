"""The `config.json` of the published InternVL3 models in the original layout, as far as it gives their geometry."""

from typing import Any

from mmkp_jax.families.internvl.published import DECODERS, TOWER


def _config(size: str) -> dict[str, Any]:
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": 448,
        "llm_config": DECODERS[size] | {"architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": False},
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "use_thumbnail": True,
        "vision_config": TOWER
        | {
            "model_type": "intern_vit_6b",  # a name of the code, not of this tower's size
            "image_size": 448,
            "patch_size": 14,
            "qkv_bias": True,
            "qk_normalization": False,
        },
    }


PUBLISHED = {f"OpenGVLab/InternVL3-{size}": _config(size) for size in DECODERS}
"""Configs by hub id."""
