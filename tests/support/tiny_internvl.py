"""A tiny InternVL3 for tests, in both published layouts: geometry, config, tokenizer, folder; and transformers' own."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmkp_jax.data.forest import Forest, RowSize, Tree, pack_rows, tree_size
from mmkp_jax.families.internvl.config import InternVLConfig, VisionConfig
from mmkp_jax.families.internvl.processor import IMAGENET_MEAN, IMAGENET_STD, InternVLProcessor, processor_of
from mmkp_jax.families.internvl.tiles import Grid
from mmkp_jax.families.registry import define
from mmkp_jax.hf.save import save_params
from mmkp_jax.models.definition import Params
from mmkp_jax.models.rope import Rope
from mmkp_jax.pocket.internvl3 import VIDEO, VOCABULARY
from mmkp_jax.pocket.tokenizer import train_tokenizer
from tests.support.needs_torch import needs_torch

if TYPE_CHECKING:
    import torch

LAYOUTS = ("internvl", "internvl_chat")

SPECIAL = VOCABULARY.special_tokens

PLAIN = 300
"""Tokens of the tokenizer before the special ones."""

CODE = dict.fromkeys(
    ("configuration_internvl_chat.py", "modeling_internvl_chat.py", "conversation.py"),
    "raise SystemExit('code of a model folder ran')\n",
)
"""Files of the original folders, which nothing here may run."""

_SENTENCES = (
    "Keyphrase prediction for social media posts with images.",
    "The model predicts the keyphrases of the post: the present ones, and those absent from the text.",
)


def make_tokenizer():
    """Pocket's tokenizer with fewer plain tokens."""
    tokenizer = train_tokenizer(_SENTENCES, VOCABULARY, PLAIN)
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") == PLAIN
    return tokenizer


def tiny_internvl(**overrides: Any) -> InternVLConfig:
    """A geometry that has every part of the published ones, with tiles of 56 pixels: 16 patches, 4 image tokens."""
    vision = VisionConfig(depth=3, hidden_size=32, intermediate_size=48, num_heads=2, image_size=56)
    tiny = InternVLConfig(
        vocab_size=PLAIN + SPECIAL.index(VIDEO),
        hidden_size=64,
        intermediate_size=96,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        rms_norm_eps=1e-6,
        rope=Rope(1e6),
        qkv_bias=True,
        tie_embeddings=None,
        vision=vision,
        image_token_id=PLAIN + SPECIAL.index("<IMG_CONTEXT>"),
    )
    return dataclasses.replace(tiny, **overrides)


def published_of(config: InternVLConfig, layout: str = "internvl") -> dict[str, Any]:
    """The `config.json` of a geometry; like the published ones of -hf folders, it has no `tie_word_embeddings`."""
    text = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "bos_token_id": PLAIN,
        "eos_token_id": PLAIN + 2 if layout == "internvl" else PLAIN,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta,
        "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
        "max_position_embeddings": config.max_positions,
        "use_sliding_window": False,
    }
    tower = config.vision
    vision = {
        "hidden_size": tower.hidden_size,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.num_heads,
        "intermediate_size": tower.intermediate_size,
        "norm_type": "layer_norm",
        "layer_norm_eps": tower.norm_eps,
        "hidden_act": "gelu",
    }
    if layout == "internvl":
        vision |= {
            "model_type": "internvl_vision",
            "image_size": [tower.image_size] * 2,
            "patch_size": [tower.patch_size] * 2,
            "attention_bias": True,
            "use_qk_norm": False,
            "use_mean_pooling": True,
        }
        return {
            "architectures": ["InternVLForConditionalGeneration"],
            "model_type": "internvl",
            "downsample_ratio": 0.5,
            "image_seq_length": tower.patches // 4,
            "image_token_id": config.image_token_id,
            "text_config": text,
            "vision_config": vision,
        }
    vision |= {
        "model_type": "intern_vit_6b",
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "qkv_bias": True,
        "qk_normalization": False,
    }
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": tower.image_size,
        "llm_config": text | {"tie_word_embeddings": False},
        "max_dynamic_patch": config.max_tiles,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "system_message": None,
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "use_thumbnail": True,
        "vision_config": vision,
    }


def preprocessor_of(config: InternVLConfig, layout: str = "internvl") -> dict[str, Any]:
    """The `preprocessor_config.json` of a layout. The original one describes something else than its code does."""
    side, colours = config.vision.image_size, {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    if layout == "internvl_chat":
        crop = {"crop_size": side, "do_center_crop": True, "feature_extractor_type": "CLIPFeatureExtractor"}
        return {**crop, "do_normalize": True, "do_resize": True, **colours, "resample": 3, "size": side}
    return {
        "crop_to_patches": False,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        **colours,
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "max_patches": config.max_tiles,
        "min_patches": 1,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": side, "width": side},
    }


def files_of(config: InternVLConfig, layout: str = "internvl") -> dict[str, dict[str, Any]]:
    """JSON files of a folder of a layout, besides the `config.json`."""
    ends = {"bos_token_id": PLAIN, "eos_token_id": PLAIN + 2} if layout == "internvl" else {}
    return {
        "preprocessor_config.json": preprocessor_of(config, layout),
        "generation_config.json": {"_from_model_config": True, **ends},
    }


def draw_internvl(path: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray | None:
    """Class token, positions and layer scales away from their initial values, without which parity would show little;
    None for other parameters."""
    if path.endswith((".ls1", ".ls2")):
        return 0.5 + 0.2 * random.standard_normal(shape)
    if path.endswith((".cls", ".position")):
        return random.standard_normal(shape)
    return None


def internvl_params(config: InternVLConfig, seed: int = 0) -> Params:
    """Random float32 parameters with which activations stay around 1; none is at its initial value."""
    from tests.support.zoo import random_params
    from tests.support.zoo_internvl import MEMBER

    return random_params(define(published_of(config)), MEMBER, seed)


def write_internvl(
    folder: Path, config: InternVLConfig | None = None, layout: str = "internvl", seed: int = 0, **options: Any
) -> None:
    """Writes a model folder of a layout: config, `internvl_params`, tokenizer, preprocessor, generation defaults."""
    config = config or tiny_internvl()
    save_params(internvl_params(config, seed), published_of(config, layout), folder, **options)
    for name, content in files_of(config, layout).items():
        (folder / name).write_text(json.dumps(content, indent=1))
    tokenizer = make_tokenizer()
    if layout == "internvl_chat":
        tokenizer.chat_template = None  # prompts follow the folder's own code
    tokenizer.save_pretrained(folder)
    for name, text in CODE.items() if layout == "internvl_chat" else ():
        (folder / name).write_text(text)


def hf_internvl(folder: Path) -> "torch.nn.Module":
    """transformers' model of a folder in its own layout, in float32, for inference."""
    torch = needs_torch()
    from transformers import InternVLForConditionalGeneration

    return InternVLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def processor_for(config: InternVLConfig, **settings: int) -> InternVLProcessor:
    """How the images of a model are laid into rows."""
    return processor_of(config, settings)


def internvl_tree(
    seed: int,
    config: InternVLConfig,
    *,
    grids: Sequence[Grid] = ((1, 2),),
    text: int = 9,
    sft: int = 4,
    cot: int = 7,
) -> Tree:
    """A prompt of a few tokens, each image with a few more behind it, `text` tokens; targets of given lengths."""
    rng = np.random.default_rng(seed)
    processor = processor_for(config)

    def draw(n: int) -> np.ndarray:
        return rng.integers(0, PLAIN - 10, n).astype(np.int32)

    layouts = tuple(map(processor.layout_of, grids))
    parts = [draw(3)]
    for layout in layouts:
        parts += [processor.placeholder(layout), draw(2)]
    patch = 3 * processor.patch_side**2
    pixels = tuple(rng.integers(0, 256, (*layout.slots, processor.patches, patch), np.uint8) for layout in layouts)
    return Tree(np.concatenate([*parts, draw(text)]), draw(sft), draw(cot), layouts, pixels)


def internvl_rows(rows: Sequence[Sequence[Tree]], config: InternVLConfig, spare: int = 0) -> Forest:
    """The rows packed in as few slots as they need, and `spare` slots of padding of each kind."""
    processor = processor_for(config)
    sizes = [[tree_size(tree, processor).slots() for tree in trees] for trees in rows]

    def most(name: str) -> int:
        return max(sum(size[name] for size in row) for row in sizes) + spare

    size = RowSize(most("tokens"), most("labels"), most("examples"), {"tiles": most("tiles")})
    return pack_rows(rows, size, processor)


def pixel_values(tree: Tree, config: InternVLConfig) -> "torch.Tensor":
    """What transformers' image processor makes of a tree's images: [tiles, 3, side, side], normalised."""
    tower, rgb = config.vision, []
    for tile_LPC in tree.pixels:
        merged, patch = tower.side // 2, tower.patch_size
        blocks = tile_LPC.reshape(-1, merged, merged, 2, 2, 3, patch, patch).transpose(0, 5, 1, 3, 6, 2, 4, 7)
        rgb.append(blocks.reshape(-1, 3, tower.image_size, tower.image_size))
    mean, std = (np.asarray(each, np.float32).reshape(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return needs_torch().from_numpy((np.concatenate(rgb).astype(np.float32) / 255 - mean) / std)


def inputs_of(tree: Tree, target: np.ndarray, config: InternVLConfig) -> "dict[str, torch.Tensor]":
    """The prompt and all but the last token of a target, as a plain sequence."""
    tokens = needs_torch().from_numpy(np.concatenate([tree.prompt, target[:-1]]).astype(np.int64))[None]
    return {"input_ids": tokens} | ({"pixel_values": pixel_values(tree, config)} if tree.layouts else {})
