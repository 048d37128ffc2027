"""Makes what pocket's model is pretrained from: a Hugging Face folder of a small Qwen2.5-VL with random parameters.

`variants.py` makes models of other families with what is for all of them here.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkp_jax.families.registry import define
from mmkp_jax.hf.save import save_params
from mmkp_jax.models.definition import Definition, Params, flatten, unflatten
from mmkp_jax.pocket.tokenizer import MAX_LENGTH

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INIT = 0.06
"""Standard deviation of every matrix; at these widths it gives a layer the gain of the published 0.02 at 2048."""

OUTPUT_SCALE = 0.35
"""Factor for the matrices that add to the residual stream: 1 / sqrt(2 * 4 layers)."""

MIN_PIXELS, MAX_PIXELS = 4 * 28 * 28, 16 * 28 * 28
"""Limits of a resized image: 4 to 16 image tokens."""

DECODER = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_scaling": {"type": "mrope", "mrope_section": [6, 9, 9]},
}
TOWER = {
    "depth": 4,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_heads": 3,
    "fullatt_block_indexes": [1, 3],
}

_ADD_TO_STREAM = ("layers.o.weight", "cross.o.weight", "blocks.proj.weight", "blocks.o.weight", "mlp.down.weight")


def write_model(tokenizer: "PreTrainedTokenizerBase", seed: int, out: Path) -> None:
    """Writes the folder: tokenizer, preprocessor, generation defaults, random parameters, config."""
    files = {"preprocessor_config.json": preprocessor_json(), "generation_config.json": generation_json(tokenizer)}
    write_folder(out, tokenizer, config_json(tokenizer), files, seed)


def write_folder(
    out: Path,
    tokenizer: "PreTrainedTokenizerBase",
    config: Mapping[str, Any],
    files: Mapping[str, Mapping[str, Any]],
    seed: int,
    constant: Callable[[str], float | None] = lambda path: None,
) -> None:
    """Writes a model folder with random parameters.

    Args:
        config: content of its `config.json`.
        files: content of its other JSON files.
        constant: as in `initial_params`.
    """
    out.mkdir(parents=True)
    tokenizer.save_pretrained(out)
    for name, content in files.items():
        _write_json(out / name, content)
    save_params(initial_params(define(config), seed, constant), config, out)


def padded_vocabulary(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The rows of an embedding: a multiple of 64, as the published ones have."""
    return -(-len(tokenizer) // 64) * 64


def config_json(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """The `config.json`, in the flat layout of the published ones."""
    token = tokenizer.convert_tokens_to_ids
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "vision_token_id": token("<|vision_pad|>"),
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
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
        "vision_config": {
            **TOWER,
            "hidden_act": "silu",
            "in_chans": 3,
            "out_hidden_size": DECODER["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
        "vocab_size": padded_vocabulary(tokenizer),
    }


def preprocessor_json() -> dict[str, Any]:
    """The `preprocessor_config.json`: the published one with pocket's pixel limits."""
    return {
        "min_pixels": MIN_PIXELS,
        "max_pixels": MAX_PIXELS,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }


def generation_json(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """The `generation_config.json`: greedy."""
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    return {"bos_token_id": pad, "pad_token_id": pad, "eos_token_id": [end, pad], "do_sample": False}


def initial_params(
    definition: Definition, seed: int, constant: Callable[[str], float | None] = lambda path: None
) -> Params:
    """Initial float32 parameters: matrices normal with standard deviation `INIT`, norms 1, biases 0, as published.

    Args:
        constant: (path) -> the number that all of a parameter is instead; None for the above.
    """
    generator = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if (number := constant(path)) is not None:
            return np.full(shape, number, np.float32)
        if path.endswith(".scale"):
            return np.ones(shape, np.float32)
        if path.endswith(".bias"):
            return np.zeros(shape, np.float32)
        scale = INIT * OUTPUT_SCALE if path.endswith(_ADD_TO_STREAM) else INIT
        return generator.standard_normal(shape, np.float32) * np.float32(scale)

    return unflatten({path: draw(path, leaf.shape) for path, leaf in flatten(definition.shapes()).items()})


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
