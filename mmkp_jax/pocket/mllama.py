"""A small Llama 3.2 Vision for pocket's posts and images: `model=pocket_mllama`."""

from typing import TYPE_CHECKING, Any

from mmkp_jax.pocket import llama3_2
from mmkp_jax.pocket.llama3_2 import ENDS
from mmkp_jax.pocket.model import INIT
from mmkp_jax.pocket.tokenizer import MAX_LENGTH
from mmkp_jax.pocket.variants import Variant, make_variant

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE = "<|image|>"
"""The last token: it has a row of the embedding, and none of the head."""

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- if not date_string is defined %}"
    "{%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}"
    "{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set system = '' %}{%- endif %}"
    "{%- set seen = namespace(image=false) %}"
    "{%- for message in messages %}{%- if message['content'] is not string %}"
    "{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{%- set seen.image = true %}{%- endif %}"
    "{%- endfor %}{%- endif %}{%- endfor %}"
    "{%- if seen.image and system %}"
    "{{- raise_exception('Prompting with images is incompatible with system messages.') }}"
    "{%- endif %}"
    "{%- if not seen.image %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{- 'Cutting Knowledge Date: December 2023\n' }}"
    "{{- 'Today Date: ' + date_string + '\n\n' }}"
    "{{- system + '<|eot_id|>' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}"
    "{%- else %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{{- '<|image|>' }}"
    "{%- elif part['type'] == 'text' %}{{- part['text'] }}{%- endif %}"
    "{%- endfor %}{%- endif %}"
    "{{- '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
"""What the published template writes, without tools: a system block with the day's date for posts without an image."""

VOCABULARY = llama3_2.VOCABULARY._replace(
    special_tokens=(
        *llama3_2.SPECIAL_TOKENS,
        *(f"<|reserved_special_token_{number}|>" for number in range(3, 12)),
        IMAGE,
    ),
    chat_template=CHAT_TEMPLATE,
)

TILE = 56
"""Pixels along a tile's side: 16 patches."""

DECODER = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "cross_attention_layers": [3],
}
TOWER = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_global_layers": 2,
    "attention_heads": 3,
    "intermediate_layers_indices": [1, 3],
    "vision_output_dim": 288,
}

COLOURS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def config_json(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """The `config.json`."""
    token = tokenizer.convert_tokens_to_ids
    return {
        "architectures": ["MllamaForConditionalGeneration"],
        "model_type": "mllama",
        "image_token_index": token(IMAGE),
        "text_config": {
            "model_type": "mllama_text_model",
            **DECODER,
            "bos_token_id": token("<|begin_of_text|>"),
            "eos_token_id": token(list(ENDS)),
            "pad_token_id": token("<|finetune_right_pad_id|>"),
            "dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": INIT,
            "max_position_embeddings": MAX_LENGTH,
            "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": MAX_LENGTH // 16,
                "rope_type": "llama3",
            },
            "rope_theta": 500_000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "use_cache": True,
            "vocab_size": token(IMAGE),
        },
        "torch_dtype": "float32",
        "vision_config": {
            "model_type": "mllama_vision_model",
            **TOWER,
            "hidden_act": "gelu",
            "image_size": TILE,
            "initializer_range": INIT,
            "max_num_tiles": 4,
            "norm_eps": 1e-5,
            "num_channels": 3,
            "patch_size": 14,
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
            "torch_dtype": "float32",
        },
    }


def preprocessor_json() -> dict[str, Any]:
    """The `preprocessor_config.json`: the published one with pocket's tiles."""
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        **COLOURS,
        "image_processor_type": "MllamaImageProcessor",
        "max_image_tiles": 4,
        "processor_class": "MllamaProcessor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": TILE, "width": TILE},
    }


def files_of(tokenizer: "PreTrainedTokenizerBase") -> dict[str, dict[str, Any]]:
    """The preprocessor, and greedy generation."""
    return {"preprocessor_config.json": preprocessor_json(), **llama3_2.files_of(tokenizer)}


def constant(path: str) -> float | None:
    """Gates: the 0 of a fresh layer in a trained model would keep this one from seeing its images."""
    return 1.0 if path.endswith("gate") else None


VARIANT = Variant("pocket_mllama", VOCABULARY, config_json, files_of, constant)


def make() -> None:
    """Makes pocket and this model, unless they exist; a config's `make` calls this."""
    make_variant(VARIANT)
