"""A small InternVL3 for pocket's posts and images, in transformers' own layout: `model=pocket_internvl3`."""

from typing import TYPE_CHECKING, Any

from mmkp_jax.pocket.model import INIT, OUTPUT_SCALE, generation_json
from mmkp_jax.pocket.tokenizer import MAX_LENGTH, SPECIAL_TOKENS, Vocabulary
from mmkp_jax.pocket.variants import Variant, make_variant

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
}
"""The tokens of images, by the names under which transformers' processor asks the tokenizer for them."""

VIDEO = "<video>"
"""A token of the published -hf folders without a row in the embedding."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{'<|im_end|>\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
"""What the published -hf template writes, without videos: no system line, and one image token an image."""

VOCABULARY = Vocabulary(
    (
        *SPECIAL_TOKENS,
        *IMAGE_TOKENS.values(),
        *("<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"),
        VIDEO,
    ),
    CHAT_TEMPLATE,
    system="",
    end="<|im_end|>",
    pad="<|endoftext|>",
    named=IMAGE_TOKENS | {"video_token": VIDEO},
)

TILE = 56
"""Pixels along a tile's side: 16 patches, 4 image tokens."""

MAX_TILES = 6

DECODER = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TOWER = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
}

COLOURS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def config_json(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """The `config.json`; as published, it leaves it to the files whether the head is the embedding."""
    token = tokenizer.convert_tokens_to_ids
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "downsample_ratio": 0.5,
        "image_seq_length": (TILE // 28) ** 2,
        "image_token_id": token("<IMG_CONTEXT>"),
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "attention_dropout": 0.0,
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            **DECODER,
            "hidden_act": "silu",
            "initializer_range": INIT,
            "max_position_embeddings": MAX_LENGTH,
            "rms_norm_eps": 1e-6,
            "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
            "rope_theta": 1_000_000.0,
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": token(VIDEO),
        },
        "torch_dtype": "float32",
        "vision_config": {
            **TOWER,
            "architectures": ["InternVisionModel"],
            "attention_bias": True,
            "hidden_act": "gelu",
            "image_size": [TILE, TILE],
            "layer_norm_eps": 1e-6,
            "model_type": "internvl_vision",
            "norm_type": "layer_norm",
            "num_channels": 3,
            "patch_size": [14, 14],
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
            "use_mean_pooling": True,
            "use_qk_norm": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }


def preprocessor_json() -> dict[str, Any]:
    """The `preprocessor_config.json`: the published one with pocket's tiles."""
    return {
        "crop_to_patches": False,  # as published; transformers' processor sets it all the same
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        **COLOURS,
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "max_patches": MAX_TILES,
        "min_patches": 1,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": TILE, "width": TILE},
    }


def files_of(tokenizer: "PreTrainedTokenizerBase") -> dict[str, dict[str, Any]]:
    """The preprocessor, the processor, and greedy generation."""
    return {
        "preprocessor_config.json": preprocessor_json(),
        "processor_config.json": {"image_seq_length": (TILE // 28) ** 2, "processor_class": "InternVLProcessor"},
        "generation_config.json": generation_json(tokenizer),
    }


def constant(path: str) -> float | None:
    """Layer scales: the published 0.1 suits a tower that has learnt already."""
    return {"tower.blocks.ls1": 1.0, "tower.blocks.ls2": OUTPUT_SCALE}.get(path)


VARIANT = Variant("pocket_internvl3", VOCABULARY, config_json, files_of, constant)


def make() -> None:
    """Makes pocket and this model, unless they exist; a config's `make` calls this."""
    make_variant(VARIANT)
