"""Llama 3.2's text models in the zoo."""

from typing import Any

from mmkp_jax.pocket.llama3_2 import ENDS, VOCABULARY
from tests.support.zoo_member import Member, number_of

BEGIN, PAD = (number_of(VOCABULARY, token) for token in ("<|begin_of_text|>", "<|finetune_right_pad_id|>"))
STOPS = [number_of(VOCABULARY, token) for token in ENDS]


def config(**changes: Any) -> dict[str, Any]:
    """A published `config.json`, tiny."""
    tiny = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": BEGIN,
        "eos_token_id": STOPS,
        "head_dim": 8,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "max_position_embeddings": 131_072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": scaling(32.0),
        "rope_theta": 500_000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": 320,
    }
    return tiny | changes


def scaling(factor: float, positions: int = 8192) -> dict[str, Any]:
    """Llama 3's scaling of the rotary embedding."""
    return {
        "factor": factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": positions,
        "rope_type": "llama3",
    }


MEMBER = Member(
    vocabulary=VOCABULARY,
    geometries={
        "tied, heads of half the width": config(),
        "untied, one kv head, factor 8": config(
            tie_word_embeddings=False, num_key_value_heads=1, head_dim=32, rope_scaling=scaling(8.0, 128)
        ),
        "published head width, no scaling": config(
            hidden_size=192, num_attention_heads=3, num_key_value_heads=3, head_dim=64, rope_scaling=None
        ),
    },
    files=lambda published: {
        "generation_config.json": {"bos_token_id": BEGIN, "pad_token_id": PAD, "eos_token_id": STOPS}
    },
)
