"""Qwen2.5's text models in the zoo."""

from typing import Any

from mmkp_jax.pocket.qwen2_5 import VOCABULARY
from tests.support.zoo_member import Member, number_of

END, PAD = (number_of(VOCABULARY, token) for token in ("<|im_end|>", "<|endoftext|>"))


def config(**changes: Any) -> dict[str, Any]:
    """A published `config.json`, tiny."""
    tiny = {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": PAD,
        "eos_token_id": END,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "max_position_embeddings": 32_768,
        "max_window_layers": 70,
        "model_type": "qwen2",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "sliding_window": 32_768,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 320,
    }
    return tiny | changes


MEMBER = Member(
    vocabulary=VOCABULARY,
    geometries={
        "tied, 2 of 4 kv heads": config(),
        "untied, 4 of 8 kv heads": config(
            tie_word_embeddings=False, num_attention_heads=8, num_key_value_heads=4, vocab_size=384
        ),
        "published head width": config(
            hidden_size=256, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2, sliding_window=None
        ),
    },
    files=lambda published: {
        "generation_config.json": {"bos_token_id": PAD, "pad_token_id": PAD, "eos_token_id": [END, PAD]}
    },
)
