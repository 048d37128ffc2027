"""The `config.json` of the published models, as far as it gives their geometry."""

from typing import Any

_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "window_size": 112,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_chans": 3,
}


def _config(
    *, vocab: int, width: int, hidden: int, layers: int, heads: int, kv_heads: int, tied: bool
) -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_vl",
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "image_token_id": 151_655,
        "vision_config": _TOWER | {"out_hidden_size": width},
    }


PUBLISHED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _config(
        vocab=151_936, width=2048, hidden=11_008, layers=36, heads=16, kv_heads=2, tied=True
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": _config(
        vocab=152_064, width=3584, hidden=18_944, layers=28, heads=28, kv_heads=4, tied=False
    ),
}
"""Configs by hub id."""
