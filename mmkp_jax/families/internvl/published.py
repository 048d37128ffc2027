"""The `config.json` of the published InternVL3 models in transformers' layout, as far as it gives their geometry."""

from typing import Any

TOWER = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
}
"""Fields of the vision tower, InternViT-300M, that both layouts have."""


def decoder(*, width: int, hidden: int, heads: int, kv_heads: int) -> dict[str, Any]:
    """Fields of a decoder."""
    return {
        "model_type": "qwen2",
        "vocab_size": 151_674,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": 28,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
        "max_position_embeddings": 32_768,
        "use_sliding_window": False,
    }


DECODERS = {
    "2B": decoder(width=1536, hidden=8960, heads=12, kv_heads=2),
    "8B": decoder(width=3584, hidden=18_944, heads=28, kv_heads=4),
}
"""Decoders by the model's size: Qwen2.5-1.5B and -7B with fewer rows of embeddings."""


def _config(size: str) -> dict[str, Any]:
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "downsample_ratio": 0.5,
        "image_seq_length": 256,
        "image_token_id": 151_667,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "text_config": DECODERS[size] | {"architectures": ["Qwen2ForCausalLM"], "eos_token_id": 151_645},
        "vision_config": TOWER
        | {
            "model_type": "internvl_vision",
            "attention_bias": True,
            "use_qk_norm": False,
            "image_size": [448, 448],
            "patch_size": [14, 14],
            "layer_scale_init_value": 0.1,
            "use_mean_pooling": True,
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
        },
    }


PUBLISHED = {f"OpenGVLab/InternVL3-{size}-hf": _config(size) for size in DECODERS}
"""Configs by hub id."""
