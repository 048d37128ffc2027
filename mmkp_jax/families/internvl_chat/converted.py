"""A folder of the original layout in transformers' own, which is only other names for the same numbers.

transformers loads the original one with the folder's own code alone, and that is never run.
"""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from mmkp_jax.families.internvl.processor import IMAGENET_MEAN, IMAGENET_STD, MERGE
from mmkp_jax.families.internvl_chat.config import config_from_chat


def converted(published: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The JSON files, by name, of the folder in transformers' layout whose `config.json` is `published` in this one.

    Raises:
        InputError: as `config_from_chat`.
    """
    config = config_from_chat(published)
    tower, side = config.vision, config.vision.image_size
    text = {name: value for name, value in published["llm_config"].items() if name != "tie_word_embeddings"}
    return {
        "config.json": {
            "architectures": ["InternVLForConditionalGeneration"],
            "model_type": "internvl",
            "downsample_ratio": 0.5,
            "image_seq_length": tower.patches // MERGE**2,
            "image_token_id": config.image_token_id,
            "text_config": {**text, "tie_word_embeddings": bool(config.tie_embeddings)},
            "tie_word_embeddings": bool(config.tie_embeddings),
            "vision_config": {
                "model_type": "internvl_vision",
                "attention_bias": True,
                "hidden_act": "gelu",
                "hidden_size": tower.hidden_size,
                "image_size": [side, side],
                "intermediate_size": tower.intermediate_size,
                "layer_norm_eps": tower.norm_eps,
                "norm_type": "layer_norm",
                "num_attention_heads": tower.num_heads,
                "num_hidden_layers": tower.depth,
                "patch_size": [tower.patch_size, tower.patch_size],
                "use_qk_norm": False,
            },
        },
        "preprocessor_config.json": {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(IMAGENET_MEAN),
            "image_processor_type": "GotOcr2ImageProcessorFast",
            "image_std": list(IMAGENET_STD),
            "max_patches": config.max_tiles,
            "min_patches": 1,
            "resample": int(Image.Resampling.BICUBIC),
            "size": {"height": side, "width": side},
        },
    }
