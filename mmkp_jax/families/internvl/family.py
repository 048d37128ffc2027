"""InternVL3 in transformers' own layout as a family."""

import functools
from collections.abc import Mapping
from typing import Any

from PIL import Image

from mmkp_jax.families.internvl.config import InternVLConfig, config_from_hf
from mmkp_jax.families.internvl.model import InternVL
from mmkp_jax.families.internvl.names import NAMES
from mmkp_jax.families.internvl.processor import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MERGE,
    InternVLProcessor,
    processor_of,
)
from mmkp_jax.families.internvl.published import PUBLISHED
from mmkp_jax.models.decoder import decoder_products, head_product, saved_by_decoder
from mmkp_jax.models.family import Family, Preprocessor, Product, Reference, Stage, Work
from mmkp_jax.models.flops import with_matrices

STAGES = (
    Stage("tower.embed", "tower"),
    Stage("tower.blocks", "tower", scanned=True, last="fc2.weight"),
    Stage("projector", "projector", first="up.weight"),
    Stage("decoder", "decoder", scanned=True, last="mlp.down.weight"),
    Stage("lm_head", "head"),
)


def products(config: InternVLConfig, sizes: Mapping[str, int], work: Work) -> list[Product]:
    """The products of a forward pass."""
    tower, tiles = config.vision, work.images["tiles"]
    slots = tower.patches + 1  # and the class token
    return [
        *with_matrices(sizes, "tower.embed", tiles * tower.patches),
        *with_matrices(sizes, "tower.blocks", tiles * slots),
        Product("tower.blocks", "", 4 * tower.hidden_size * tower.depth * tiles * slots**2),
        *with_matrices(sizes, "projector", tiles * tower.patches / MERGE**2),
        *decoder_products(config, sizes, work),
        head_product(config, sizes, work),
    ]


def saved_by_layers(config: InternVLConfig, slots: Mapping[str, int]) -> dict[str, int]:
    """Numbers in the inputs of layers and the outputs of their attention, of a row."""
    tower = config.vision
    return {
        "tower.blocks": tower.depth * 2 * tower.hidden_size * slots["tiles"] * (tower.patches + 1),
        "decoder": saved_by_decoder(config, slots["tokens"]),
    }


def supported(config: InternVLConfig) -> dict[str, Any]:
    """Fields of a preprocessor that determine the model's input, except the limit of tiles.

    `crop_to_patches` is not among them: transformers' and vLLM's processors set it, whatever the file says.
    """
    side = config.vision.image_size
    return {
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": int(Image.Resampling.BICUBIC),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
        "do_convert_rgb": True,
        "min_patches": 1,
    }


def inputs(ids: Any, config: Any) -> dict[str, Any]:
    """No further inputs."""
    return {}


USUAL_IMAGES = (
    *((1200, 675), (680, 680), (900, 1200), (1080, 1080), (2048, 1536)),
    *((640, 360), (500, 281), (1536, 2048), (320, 568)),
)
"""Width and height of images as social media serve them (`benchmarks/packing.py`)."""

TEXT = 58.0
"""Tokens of a prompt without image and system line: those of Qwen2.5-VL's mean post, which has a system line of 11."""


def typical_post(processor: InternVLProcessor, *, system: int) -> dict[str, float]:
    """A mean post, whose image has the mean tiles of `USUAL_IMAGES`; `system` tokens are of a system line."""
    tiles = sum(processor.layout(height, width).slots[0] for width, height in USUAL_IMAGES) / len(USUAL_IMAGES)
    return {"trunk": system + TEXT + tiles * processor.tile_tokens, "sft": 4.9, "cot": 141.9, "tiles": tiles}


EXPAND = """\
tiles, tile_tokens = int(inputs.pop("num_patches")), model.config.image_seq_length
prompt = prompt.replace("<IMG_CONTEXT>", f"<img>{'<IMG_CONTEXT>' * tile_tokens * tiles}</img>", 1)
"""
IMAGES = (
    "Images are resized (bicubic, by Pillow) to a grid of at most {max_tiles} tiles whose aspect is nearest to theirs, "
    "and once more as a thumbnail"
)

FAMILY = Family(
    name="internvl",
    read_config=config_from_hf,
    build=InternVL,
    names=NAMES,
    processor=processor_of,
    stages=STAGES,
    products=products,
    saved_by_layers=saved_by_layers,
    preprocessor=Preprocessor(
        kinds=("GotOcr2ImageProcessorFast", "GotOcr2ImageProcessor", "GotOcr2ImageProcessorPil"),
        supported=supported,
        settings={"max_tiles": ("max_patches", None)},
        required=("size", "image_mean", "image_std"),
    ),
    reference=Reference(
        model="InternVLForConditionalGeneration",
        image_processor="GotOcr2ImageProcessorPil",
        inputs=inputs,
        expand=EXPAND,
        extra="",
        images=IMAGES,
        options={"crop_to_patches": True},
        dropped=("num_patches",),
    ),
    unembedded=("<video>",),
    published=PUBLISHED,
    typical_post=functools.partial(typical_post, system=0),
)
