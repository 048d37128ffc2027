"""The `config.json` of the published models, as far as it gives their geometry.

Base and Instruct differ in the side of a tile: 448 and 560 pixels. A folder's own files say which it is.
"""

from typing import Any


def _config(*, tile: int, ends: int | list[int]) -> dict[str, Any]:
    return {
        "architectures": ["MllamaForConditionalGeneration"],
        "model_type": "mllama",
        "image_token_index": 128_256,
        "text_config": {
            "model_type": "mllama_text_model",
            "vocab_size": 128_256,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 40,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "max_position_embeddings": 131_072,
            "tie_word_embeddings": False,
            "bos_token_id": 128_000,
            "eos_token_id": ends,
            "pad_token_id": 128_004,
        },
        "vision_config": {
            "model_type": "mllama_vision_model",
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_global_layers": 8,
            "attention_heads": 16,
            "hidden_act": "gelu",
            "image_size": tile,
            "patch_size": 14,
            "num_channels": 3,
            "max_num_tiles": 4,
            "norm_eps": 1e-5,
            "intermediate_layers_indices": [3, 7, 15, 23, 30],
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
            "vision_output_dim": 7680,
        },
    }


PUBLISHED = {
    "meta-llama/Llama-3.2-11B-Vision-Instruct": _config(tile=560, ends=[128_001, 128_008, 128_009]),
    "meta-llama/Llama-3.2-11B-Vision": _config(tile=448, ends=128_001),
}
"""Configs by hub id."""
