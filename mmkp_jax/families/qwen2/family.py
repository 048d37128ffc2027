"""Qwen2 and Qwen2.5 text models as a family."""

from typing import Any

from mmkp_jax.families.qwen2.config import config_from_hf
from mmkp_jax.families.text_family import text_family


def _published(
    *, vocab: int, width: int, hidden: int, layers: int, heads: int, kv_heads: int, tied: bool
) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "max_position_embeddings": 32_768,
        "use_sliding_window": False,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
    }


PUBLISHED = {
    "Qwen/Qwen2.5-3B-Instruct": _published(
        vocab=151_936, width=2048, hidden=11_008, layers=36, heads=16, kv_heads=2, tied=True
    ),
    "Qwen/Qwen2.5-7B-Instruct": _published(
        vocab=152_064, width=3584, hidden=18_944, layers=28, heads=28, kv_heads=4, tied=False
    ),
}
"""Configs by hub id, as far as they give the geometry."""

FAMILY = text_family(
    "qwen2",
    config_from_hf,
    qkv_bias=True,
    model="Qwen2ForCausalLM",
    published=PUBLISHED,
    # Qwen2.5-VL's figures without its image, with the ten tokens by which this system line is longer
    typical_post={"trunk": 77.1, "sft": 4.9, "cot": 141.9},
)
