"""Qwen2.5-VL as a family."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from mmkp_jax.families.qwen2_5_vl.config import Qwen2_5_VLConfig, config_from_hf
from mmkp_jax.families.qwen2_5_vl.model import Qwen2_5_VL
from mmkp_jax.families.qwen2_5_vl.names import NAMES
from mmkp_jax.families.qwen2_5_vl.processor import CLIP_MEAN, CLIP_STD, MERGE, PATCH, processor_of
from mmkp_jax.families.qwen2_5_vl.published import PUBLISHED
from mmkp_jax.models.decoder import decoder_products, head_product, saved_by_decoder
from mmkp_jax.models.family import Family, Preprocessor, Product, Reference, Stage, Work
from mmkp_jax.models.flops import with_matrices

STAGES = (
    Stage("visual.patch_embed", "tower"),
    Stage("visual.blocks", "tower", scanned=True, last="mlp.down.weight"),
    Stage("visual.merger", "projector", first="up.weight"),
    Stage("decoder", "decoder", scanned=True, last="mlp.down.weight"),
    Stage("lm_head", "head"),
)


def products(config: Qwen2_5_VLConfig, sizes: Mapping[str, int], work: Work) -> list[Product]:
    """The products of a forward pass."""
    tower, images = config.vision, work.images
    whole = _whole_layers(config)
    patch_pairs = whole * images["image_pairs"] + (tower.depth - whole) * images["window_pairs"]
    return [
        # one kernel, summed over time
        *with_matrices(sizes, "visual.patch_embed", images["patches"] / tower.temporal_patch_size),
        *with_matrices(sizes, "visual.blocks", images["patches"]),
        Product("visual.blocks", "", 4 * tower.hidden_size * patch_pairs),
        *with_matrices(sizes, "visual.merger", images["merged"]),
        *decoder_products(config, sizes, work),
        head_product(config, sizes, work),
    ]


def saved_by_layers(config: Qwen2_5_VLConfig, slots: Mapping[str, int]) -> dict[str, int]:
    """Numbers in the inputs of layers and the outputs of their attention, of a row."""
    tower = config.vision
    return {
        "visual.blocks": tower.depth * 2 * tower.hidden_size * slots["patches"],
        "decoder": saved_by_decoder(config, slots["tokens"]),
    }


def true_share(config: Qwen2_5_VLConfig) -> float:
    """The share of the tower's layers that see whole images: its one conditional is true there."""
    return _whole_layers(config) / config.vision.depth


def _whole_layers(config: Qwen2_5_VLConfig) -> int:
    return sum(layer < config.vision.depth for layer in config.vision.full_attention_layers)


def supported(config: Qwen2_5_VLConfig) -> dict[str, Any]:
    """Fields of a preprocessor that determine the model's input, except pixel limits."""
    return {
        "do_resize": True,
        "resample": int(Image.Resampling.BICUBIC),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "do_convert_rgb": True,
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": config.vision.temporal_patch_size,
    }


def inputs(ids: Any, config: Any) -> dict[str, Any]:
    """The input that marks image tokens: without it, positions would be those of plain text."""
    return {"mm_token_type_ids": (ids == config.image_token_id).int()}


EXPAND = """\
image_tokens = int(inputs["image_grid_thw"].prod()) // 4
prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * image_tokens, 1)
"""
EXTRA = """\
inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()  # otherwise positions are those of plain text
"""
IMAGES = "Images are resized (bicubic, by Pillow) to {min_pixels} to {max_pixels} pixels"

FAMILY = Family(
    name="qwen2_5_vl",
    read_config=config_from_hf,
    build=Qwen2_5_VL,
    names=NAMES,
    processor=processor_of,
    stages=STAGES,
    products=products,
    saved_by_layers=saved_by_layers,
    true_share=true_share,
    attended=("image_pairs",),
    preprocessor=Preprocessor(
        kinds=(
            *("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast"),
            *("Qwen2VLImageProcessorPil", "Qwen2_5_VLImageProcessor"),
        ),
        supported=supported,
        settings={"min_pixels": ("min_pixels", "shortest_edge"), "max_pixels": ("max_pixels", "longest_edge")},
        limits_training=False,  # the published 12,845,056 pixels are 16,384 image tokens, which no row holds
    ),
    reference=Reference(
        model="Qwen2_5_VLForConditionalGeneration",
        image_processor="Qwen2VLImageProcessorPil",
        inputs=inputs,
        expand=EXPAND,
        extra=EXTRA,
        images=IMAGES,
    ),
    published=PUBLISHED,
    # CMKP's mean post (`benchmarks/packing.py`)
    typical_post={"trunk": 514.8, "sft": 4.9, "cot": 141.9, "patches": 1782.9, "windows": 30.2},
)
