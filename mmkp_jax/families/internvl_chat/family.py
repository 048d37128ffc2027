"""InternVL3 in its original layout as a family: the same model, under other names, with another prompt."""

import dataclasses
import functools
from typing import Any

from PIL import Image

from mmkp_jax.families.internvl.config import InternVLConfig
from mmkp_jax.families.internvl.family import FAMILY as INTERNVL
from mmkp_jax.families.internvl.family import typical_post
from mmkp_jax.families.internvl.processor import IMAGENET_MEAN, IMAGENET_STD
from mmkp_jax.families.internvl_chat.config import config_from_chat
from mmkp_jax.families.internvl_chat.converted import converted
from mmkp_jax.families.internvl_chat.names import NAMES
from mmkp_jax.families.internvl_chat.published import PUBLISHED
from mmkp_jax.families.internvl_chat.snippets import SNIPPETS
from mmkp_jax.models.family import Preprocessor


def supported(config: InternVLConfig) -> dict[str, Any]:
    """Fields of the preprocessor's file that agree with what the folder's own code does.

    The file describes a cropped image without tiles, which that code never makes: it is copied, and not followed.
    """
    side = config.vision.image_size
    colours = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    return {"size": side, "crop_size": side, "resample": int(Image.Resampling.BICUBIC), **colours}


FAMILY = dataclasses.replace(
    INTERNVL,
    name="internvl_chat",
    read_config=config_from_chat,
    names=NAMES,
    preprocessor=Preprocessor(
        kinds=("CLIPFeatureExtractor", "CLIPImageProcessor"),
        supported=supported,
        settings={"max_tiles": ("max_dynamic_patch", None)},
        settings_in="config.json",
    ),
    reference=INTERNVL.reference._replace(converted=converted, snippets=SNIPPETS, peft_task=None),
    published=PUBLISHED,
    typical_post=functools.partial(typical_post, system=42),  # about as many
    template_tokens=256,
)
