"""Pocket's posts without their images, and a small Qwen2.5: `model=pocket_qwen2_5`."""

from typing import TYPE_CHECKING, Any

from mmkp_jax.pocket.model import INIT, generation_json, padded_vocabulary
from mmkp_jax.pocket.tokenizer import MAX_LENGTH, SPECIAL_TOKENS, Vocabulary
from mmkp_jax.pocket.variants import Variant, make_variant

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM = "system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."

CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}"
    f"{{{{- '<|im_start|>{SYSTEM}<|im_end|>\n' }}}}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""The published template without tools; it takes the text of a turn as a string alone."""

VOCABULARY = Vocabulary(SPECIAL_TOKENS, CHAT_TEMPLATE, SYSTEM, end="<|im_end|>", pad="<|endoftext|>")

DECODER = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def config_json(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """The `config.json`."""
    token = tokenizer.convert_tokens_to_ids
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        **DECODER,
        "hidden_act": "silu",
        "initializer_range": INIT,
        "max_position_embeddings": MAX_LENGTH,
        "max_window_layers": DECODER["num_hidden_layers"],
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "sliding_window": MAX_LENGTH,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": padded_vocabulary(tokenizer),
    }


VARIANT = Variant(
    "pocket_qwen2_5", VOCABULARY, config_json, lambda tokenizer: {"generation_config.json": generation_json(tokenizer)}
)


def make() -> None:
    """Makes pocket and this model, unless they exist; a config's `make` calls this."""
    make_variant(VARIANT)
