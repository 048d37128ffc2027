"""Llama 3.2 Vision in the zoo: tiles of 56 pixels, 16 patches each."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmkp_jax.families.mllama.processor import CLIP_MEAN, CLIP_STD
from mmkp_jax.families.mllama.reference import of_images
from mmkp_jax.families.mllama.tiles import canvases
from mmkp_jax.pocket.llama3_2 import ENDS
from mmkp_jax.pocket.mllama import IMAGE, VOCABULARY, preprocessor_json
from tests.support.needs_torch import needs_torch
from tests.support.zoo_llama import scaling
from tests.support.zoo_member import Member, number_of

BEGIN, PAD = (number_of(VOCABULARY, token) for token in ("<|begin_of_text|>", "<|finetune_right_pad_id|>"))
STOPS = [number_of(VOCABULARY, token) for token in ENDS]


def config(text: Mapping[str, Any] | None = None, vision: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A published `config.json`, tiny, with other fields of the decoder and of the tower."""
    decoder = {
        "model_type": "mllama_text_model",
        "bos_token_id": BEGIN,
        "cross_attention_layers": [3],
        "dropout": 0.0,
        "eos_token_id": STOPS,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "max_position_embeddings": 131_072,
        "num_attention_heads": 4,
        "num_hidden_layers": 5,
        "num_key_value_heads": 2,
        "pad_token_id": PAD,
        "rms_norm_eps": 1e-5,
        "rope_scaling": scaling(8.0),
        "rope_theta": 500_000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": number_of(VOCABULARY, IMAGE),
    }
    tower = {
        "model_type": "mllama_vision_model",
        "attention_heads": 2,
        "hidden_act": "gelu",
        "hidden_size": 32,
        "image_size": 56,
        "initializer_range": 0.02,
        "intermediate_layers_indices": [1, 2],
        "intermediate_size": 48,
        "max_num_tiles": 4,
        "norm_eps": 1e-5,
        "num_channels": 3,
        "num_global_layers": 2,
        "num_hidden_layers": 4,
        "patch_size": 14,
        "supported_aspect_ratios": [list(canvas) for canvas in canvases(4)],
        "torch_dtype": "float32",
        "vision_output_dim": 96,
    }
    return {
        "architectures": ["MllamaForConditionalGeneration"],
        "image_token_index": number_of(VOCABULARY, IMAGE),
        "model_type": "mllama",
        "text_config": decoder | dict(text or {}),
        "torch_dtype": "float32",
        "vision_config": tower | dict(vision or {}),
    }


def reference_config(published: Mapping[str, Any]) -> dict[str, Any]:
    """With each tap one layer earlier: transformers takes the outputs of the layers that are named."""
    taps = [tap - 1 for tap in published["vision_config"]["intermediate_layers_indices"]]
    return {**published, "vision_config": {**published["vision_config"], "intermediate_layers_indices": taps}}


def pixel_values(tree, tower) -> np.ndarray:
    """What transformers' image processor makes of a tree's images: float32 [1, J, Z, 3, side, side]."""
    side, patch = tower.image_size, tower.patch_size
    n, found = side // patch, np.zeros((1, len(tree.layouts), tower.max_tiles, 3, side, side), np.float32)
    mean, std = (np.asarray(each, np.float32).reshape(3, 1, 1) for each in (CLIP_MEAN, CLIP_STD))
    for number, tile_ZPC in enumerate(tree.pixels):
        value = tile_ZPC.reshape(-1, n, n, 3, patch, patch).transpose(0, 3, 1, 4, 2, 5).reshape(-1, 3, side, side)
        found[0, number, : len(value)] = (value.astype(np.float32) / 255 - mean) / std
    return found


def image_inputs(tree, ids, definition):
    torch, tower = needs_torch(), definition.config.vision
    tiles = [layout.shape[0] * layout.shape[1] for layout in tree.layouts]
    mask = torch.tensor([[[int(tile < filled) for tile in range(tower.max_tiles)] for filled in tiles]])
    number = [1 + canvases(tower.max_tiles).index(layout.shape[:2]) for layout in tree.layouts]
    seen = {
        "pixel_values": torch.from_numpy(pixel_values(tree, tower)),
        "aspect_ratio_ids": torch.tensor([number]),
        "aspect_ratio_mask": mask,
    }
    config = type("Config", (), {"image_token_index": definition.config.image_token_id})
    return seen | of_images(ids, seen, config)


def draw(path: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray | None:
    """Gates, class token and embeddings of positions and tiles away from the 0 of a fresh model."""
    if path.endswith("gate"):
        return random.uniform(0.4, 1.2, shape) * random.choice([-1, 1], shape)
    if path.endswith((".cls", ".position", ".tile", ".tile_position")):
        return random.standard_normal(shape)
    return None


MEMBER = Member(
    vocabulary=VOCABULARY,
    geometries={
        "two stages, a block of layers": config(),
        "two blocks of layers, one kv head, three taps": config(
            text={
                "num_hidden_layers": 10,
                "cross_attention_layers": [3, 8],
                "num_key_value_heads": 1,
                "rope_scaling": scaling(32.0, 128),
                "rms_norm_eps": 1e-6,
            },
            vision={
                "num_hidden_layers": 6,
                "num_global_layers": 1,
                "intermediate_layers_indices": [1, 3, 5],
                "vision_output_dim": 128,
                "image_size": 84,
            },
        ),
        "published head widths, default rope, most tiles 2": config(
            text={
                "hidden_size": 256,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "rope_scaling": {"rope_type": "default"},
            },
            vision={
                "hidden_size": 160,
                "vision_output_dim": 480,
                "norm_eps": 1e-6,
                "max_num_tiles": 2,
                "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            },
        ),
    },
    files=lambda published: {
        "preprocessor_config.json": {
            **preprocessor_json(),
            "max_image_tiles": published["vision_config"]["max_num_tiles"],
            "size": dict.fromkeys(("height", "width"), published["vision_config"]["image_size"]),
        },
        "generation_config.json": {"bos_token_id": BEGIN, "pad_token_id": PAD, "eos_token_id": STOPS},
    },
    sizes=((40, 40), (50, 110), (150, 60)),
    image_inputs=image_inputs,
    reference_config=reference_config,
    draw=draw,
)
