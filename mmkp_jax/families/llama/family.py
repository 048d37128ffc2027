"""Llama 3 text models as a family."""

from typing import Any

from mmkp_jax.families.llama.config import config_from_hf
from mmkp_jax.families.text_family import text_family


def _published(*, width: int, layers: int, heads: int, head_dim: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": width,
        "intermediate_size": 8192,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "max_position_embeddings": 131_072,
        "bos_token_id": 128_000,
        "eos_token_id": [128_001, 128_008, 128_009],
    }


PUBLISHED = {
    "meta-llama/Llama-3.2-1B-Instruct": _published(width=2048, layers=16, heads=32, head_dim=64),
    "meta-llama/Llama-3.2-3B-Instruct": _published(width=3072, layers=28, heads=24, head_dim=128),
}
"""Configs by hub id, as far as they give the geometry. There is no text model of 2B in Llama 3.2."""

FAMILY = text_family(
    "llama",
    config_from_hf,
    qkv_bias=False,
    model="LlamaForCausalLM",
    published=PUBLISHED,
    # Qwen2.5-VL's figures without its image, with the fourteen tokens by which this template is longer
    typical_post={"trunk": 83.1, "sft": 4.9, "cot": 141.9},
    template_tokens=96,
    end="<|eot_id|>",
    is_dated=True,
)
