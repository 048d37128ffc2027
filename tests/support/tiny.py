"""A tiny Qwen2.5-VL for tests: geometry, published config, tokenizer, parameters; and transformers' own model of it."""

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkp_jax.families.qwen2_5_vl.config import Qwen2_5_VLConfig, VisionConfig
from mmkp_jax.families.registry import define
from mmkp_jax.hf.save import save_params
from mmkp_jax.models.definition import Params, flatten, unflatten
from mmkp_jax.pocket.tokenizer import CHAT_TEMPLATE, QWEN_WORDS, SPECIAL_TOKENS
from tests.support.needs_torch import needs_torch

if TYPE_CHECKING:
    import torch

PLAIN_TOKENS = 300
"""Tokens of the tiny tokenizer before the special ones: the bytes and a few merges."""

_SENTENCES = (
    "Keyphrase prediction for social media posts with images.",
    "The model predicts the keyphrases of the post: the present ones, and those absent from the text.",
)


def tiny_config(**overrides: Any) -> Qwen2_5_VLConfig:
    """A geometry of some 200,000 parameters that has every part of the published ones.

    Grouped queries, windowed and full-attention layers, M-RoPE sections of unequal size, a padded vocabulary;
    the token numbers are those of `write_tokenizer`. `overrides` replace its fields.
    """
    vision = VisionConfig(
        depth=4,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=64,
        full_attention_layers=(1, 3),
    )
    tiny = Qwen2_5_VLConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        vision=vision,
        tie_embeddings=True,
        mrope_section=(2, 3, 3),
        image_token_id=PLAIN_TOKENS + SPECIAL_TOKENS.index("<|image_pad|>"),
    )
    return dataclasses.replace(tiny, **overrides)


def hf_config_dict(config: Qwen2_5_VLConfig, nested: bool = False) -> dict[str, Any]:
    """The `config.json` of a geometry: flat as published, or `nested` as transformers 5 writes it."""
    token = {name: config.image_token_id - 12 + i for i, name in enumerate(SPECIAL_TOKENS)}
    shared = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": config.tie_embeddings,
        "vision_start_token_id": token["<|vision_start|>"],
        "vision_end_token_id": token["<|vision_end|>"],
        "image_token_id": token["<|image_pad|>"],
        "video_token_id": token["<|video_pad|>"],
    }
    text = {
        "bos_token_id": token["<|endoftext|>"],
        "eos_token_id": token["<|im_end|>"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "max_position_embeddings": 128_000,
        "max_window_layers": 70,
        "sliding_window": 32_768,
        "use_cache": True,
        "use_sliding_window": False,
    }
    tower = config.vision
    vision = {
        "depth": tower.depth,
        "hidden_act": "silu",
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.intermediate_size,
        "num_heads": tower.num_heads,
        "out_hidden_size": tower.out_hidden_size,
        "patch_size": tower.patch_size,
        "spatial_merge_size": tower.merge_size,
        "temporal_patch_size": tower.temporal_patch_size,
        "tokens_per_second": 2,
        "window_size": tower.window_size,
        "fullatt_block_indexes": list(tower.full_attention_layers),
    }
    sections = list(config.mrope_section)
    if nested:
        rope = {"rope_type": "default", "rope_theta": config.rope_theta, "mrope_section": sections}
        text |= {"model_type": "qwen2_5_vl_text", "rope_parameters": rope}
        vision |= {"model_type": "qwen2_5_vl", "in_channels": tower.in_channels}
        return {**shared, "dtype": "float32", "text_config": text, "vision_config": vision}
    vision |= {"in_chans": tower.in_channels, "spatial_patch_size": tower.patch_size}
    return {
        **shared,
        **text,
        "torch_dtype": "float32",
        "rope_theta": config.rope_theta,
        "rope_scaling": {"type": "mrope", "mrope_section": sections},
        "vision_config": vision,
    }


def write_tokenizer(folder: Path) -> None:
    """Writes a byte-level BPE with Qwen's word pattern, special tokens and chat template into `folder`."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    bytes_first = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=PLAIN_TOKENS, initial_alphabet=bytes_first, show_progress=False)
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    assert tokenizer.get_vocab_size() == PLAIN_TOKENS
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
    )
    fast.save_pretrained(folder)


def tiny_params(config: Qwen2_5_VLConfig, seed: int = 0) -> Params:
    """Random float32 parameters with which activations stay around 1.

    Biases lie around 0 and norm scales around 1, none of them there.
    """
    generator = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        numbers = generator.standard_normal(shape, np.float32)
        if path.endswith(".scale"):
            return 1 + np.float32(0.2) * numbers
        if path.endswith(".bias"):
            return np.float32(0.1) * numbers
        fan_in = math.prod(shape[2:] if ".layers." in path or ".blocks." in path else shape[1:])
        return numbers * np.float32(fan_in**-0.5)

    shapes = flatten(define(hf_config_dict(config)).shapes())
    return unflatten({path: draw(path, leaf.shape) for path, leaf in shapes.items()})


def write_model(folder: Path, config: Qwen2_5_VLConfig | None = None, seed: int = 0) -> None:
    """Writes a model folder: config, `tiny_params`, generation defaults and the tokenizer."""
    config = config or tiny_config()
    published = hf_config_dict(config)
    save_params(tiny_params(config, seed), published, folder)
    ends = {name: published[name] for name in ("bos_token_id", "eos_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    write_tokenizer(folder)


def hf_model(folder: Path) -> "torch.nn.Module":
    """transformers' model of a folder, in float32, for inference."""
    torch = needs_torch()
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
