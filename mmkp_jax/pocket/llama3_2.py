"""Pocket's posts without their images, and a small Llama 3.2: `model=pocket_llama3_2`."""

from typing import TYPE_CHECKING, Any

from mmkp_jax.pocket.model import INIT, padded_vocabulary
from mmkp_jax.pocket.tokenizer import MAX_LENGTH, Vocabulary
from mmkp_jax.pocket.variants import Variant, make_variant

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
)  # fmt: skip
"""The first special tokens, in the order of their published numbers from 128,000 on."""

SYSTEM = "system\n\nCutting Knowledge Date: December 2023\nToday Date: "

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- if not date_string is defined %}"
    "{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}"
    "{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{- 'Cutting Knowledge Date: December 2023\n' }}"
    "{{- 'Today Date: ' + date_string + '\n\n' }}"
    "{{- system }}{{- '<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
"""The published template without tools. It writes the day's date unless it is given one, and a list as Python does."""

LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern that splits a text into words: numbers in up to three digits."""

VOCABULARY = Vocabulary(
    SPECIAL_TOKENS,
    CHAT_TEMPLATE,
    SYSTEM,
    end="<|eot_id|>",
    pad="<|finetune_right_pad_id|>",
    begin="<|begin_of_text|>",
    words=LLAMA_WORDS,
    normalised=False,
)

DECODER = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # not hidden_size / num_attention_heads
}

ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
"""Tokens that end an answer."""


def config_json(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """The `config.json`."""
    token = tokenizer.convert_tokens_to_ids
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": token("<|begin_of_text|>"),
        "eos_token_id": token(list(ENDS)),
        **DECODER,
        "hidden_act": "silu",
        "initializer_range": INIT,
        "max_position_embeddings": MAX_LENGTH,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": MAX_LENGTH // 16,
            "rope_type": "llama3",
        },
        "rope_theta": 500_000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": padded_vocabulary(tokenizer),
    }


def files_of(tokenizer: "PreTrainedTokenizerBase") -> dict[str, dict[str, Any]]:
    """The `generation_config.json`: greedy."""
    token = tokenizer.convert_tokens_to_ids
    numbers = {
        "bos_token_id": token("<|begin_of_text|>"),
        "pad_token_id": token("<|finetune_right_pad_id|>"),
        "eos_token_id": token(list(ENDS)),
    }
    return {"generation_config.json": {**numbers, "do_sample": False}}


VARIANT = Variant("pocket_llama3_2", VOCABULARY, config_json, files_of)


def make() -> None:
    """Makes pocket and this model, unless they exist; a config's `make` calls this."""
    make_variant(VARIANT)
