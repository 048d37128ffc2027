"""InternVL3 in its original layout as a family: the same model, under other names, with another prompt."""

import dataclasses

from mmkp_jax.families.internvl.family import FAMILY as INTERNVL
from mmkp_jax.families.internvl_chat.config import config_from_chat
from mmkp_jax.families.internvl_chat.names import NAMES
from mmkp_jax.families.internvl_chat.published import PUBLISHED

FAMILY = dataclasses.replace(
    INTERNVL,
    name="internvl_chat",
    read_config=config_from_chat,
    names=NAMES,
    published=PUBLISHED,
)
