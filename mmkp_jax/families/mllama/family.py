"""Llama 3.2 Vision as a family."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from mmkp_jax.families.mllama import reference
from mmkp_jax.families.mllama.config import MllamaConfig, config_from_hf
from mmkp_jax.families.mllama.model import Mllama
from mmkp_jax.families.mllama.names import NAMES
from mmkp_jax.families.mllama.processor import CLIP_MEAN, CLIP_STD, processor_of
from mmkp_jax.families.mllama.published import PUBLISHED
from mmkp_jax.models.family import Family, Preprocessor, Product, Reference, Stage, Work
from mmkp_jax.models.flops import with_matrices

STAGES = (
    Stage("tower.embed", "tower"),
    Stage("tower.blocks", "tower", scanned=True, last="fc2.weight"),
    Stage("tower.between", "tower"),
    Stage("tower.global_blocks", "tower", scanned=True, last="fc2.weight"),
    Stage("projector", "projector"),
    Stage("decoder", "decoder", scanned=True, last="mlp.down.weight"),
    Stage("lm_head", "head"),
)

OF_IMAGES = ("decoder.cross.k.weight", "decoder.cross.v.weight")
"""Matrices of the decoder that multiply keys of images, not tokens."""


def products(config: MllamaConfig, sizes: Mapping[str, int], work: Work) -> list[Product]:
    """The products of a forward pass."""
    tower, images = config.vision, work.images
    keys = images["images"] * tower.max_tiles * tower.tile_keys
    decoder = [
        *with_matrices(sizes, "decoder", work.tokens, within="decoder.layers"),
        *with_matrices(sizes, "decoder", work.tokens, within="decoder.cross"),
    ]
    pairs = config.self_layers * work.token_pairs + config.cross_layers * images["cross_pairs"]

    def blocks(stage: str, depth: int) -> list[Product]:
        return [
            *with_matrices(sizes, stage, images["images"] * tower.slots),
            Product(stage, "", 4 * tower.hidden_size * depth * images["tower_pairs"]),
        ]

    return [
        *with_matrices(sizes, "tower.embed", images["tiles"] * tower.patches),
        *blocks("tower.blocks", tower.depth),
        *blocks("tower.global_blocks", tower.global_depth),
        *with_matrices(sizes, "projector", keys),
        *(each for each in decoder if each.matrix not in OF_IMAGES),
        *(Product("decoder", path, 2 * keys * sizes[path]) for path in OF_IMAGES),
        Product("decoder", "", 4 * config.num_heads * config.head_dim * pairs),
        Product("lm_head", "lm_head", 2 * work.labels * sizes["lm_head"]),
    ]


def saved_by_layers(config: MllamaConfig, slots: Mapping[str, int]) -> dict[str, int]:
    """Numbers in the inputs of layers and the outputs of their attention, of a row."""
    tower = config.vision
    of_layer = 2 * tower.hidden_size * slots["images"] * tower.slots
    width = config.hidden_size + config.num_heads * config.head_dim
    return {
        "tower.blocks": tower.depth * of_layer,
        "tower.global_blocks": tower.global_depth * of_layer,
        "decoder": config.num_layers * width * slots["tokens"],
    }


def supported(config: MllamaConfig) -> dict[str, Any]:
    """Fields of a preprocessor that determine the model's input."""
    side = config.vision.image_size
    return {
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": int(Image.Resampling.BILINEAR),
        "do_pad": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "do_convert_rgb": True,
        "max_image_tiles": config.vision.max_tiles,
    }


IMAGES = "Images are resized (bilinear, by Pillow) onto a canvas of up to four square tiles, and keep their aspect"

FAMILY = Family(
    name="mllama",
    read_config=config_from_hf,
    build=Mllama,
    names=NAMES,
    processor=processor_of,
    stages=STAGES,
    products=products,
    saved_by_layers=saved_by_layers,
    attended_elsewhere=("tower_pairs", "cross_pairs"),
    preprocessor=Preprocessor(
        kinds=("MllamaImageProcessor", "MllamaImageProcessorFast", "MllamaImageProcessorPil"),
        supported=supported,
        settings={},
        required=("size", "image_mean", "image_std"),
    ),
    reference=Reference(
        model=reference.MODEL,
        image_processor=reference.IMAGE_PROCESSOR,
        inputs=reference.inputs,
        expand=reference.EXPAND,
        extra=reference.EXTRA,
        images=IMAGES,
        dropped=("num_tiles",),
        end="<|eot_id|>",
        is_dated=True,
        of_images=reference.of_images,
        adjust=reference.adjust,
        adjusting=reference.ADJUSTING,
        vllm_note=reference.VLLM,
        vllm_lora=False,
    ),
    published=PUBLISHED,
    # Llama's figures, with the image's token instead of the system line
    typical_post={"trunk": 59.1, "sft": 4.9, "cot": 141.9, "images": 1.0},
    template_tokens=96,
    embedding_rows=lambda config: config.embedding_rows,
)
