"""InternVL3 in the zoo, in both published layouts."""

import dataclasses

from mmkp_jax.families.internvl_chat.converted import converted
from mmkp_jax.families.registry import define
from mmkp_jax.models.rope import Rope
from mmkp_jax.pocket.internvl3 import VOCABULARY
from tests.support.tiny_internvl import (
    CODE,
    draw_internvl,
    files_of,
    pixel_values,
    published_of,
    tiny_internvl,
)
from tests.support.zoo_member import Member

_TOWER = tiny_internvl().vision
_GEOMETRIES = {
    "tiles of 4 tokens": tiny_internvl(max_tiles=4),
    "tiles of 16 tokens, one kv head": tiny_internvl(
        num_kv_heads=1,
        rms_norm_eps=1e-5,
        rope=Rope(1e4),
        max_tiles=4,
        vision=dataclasses.replace(_TOWER, image_size=112, depth=4, num_heads=4),
    ),
    "published head width": tiny_internvl(hidden_size=256, head_dim=128, num_heads=2, num_kv_heads=1, max_tiles=4),
}


def image_inputs(tree, ids, definition):
    return {"pixel_values": pixel_values(tree, definition.config)}


def untied(published):
    """A config that says what the files hold: else transformers saves `tie_word_embeddings: true` next to a head."""
    return {**published, "tie_word_embeddings": False}


def member_of(layout: str) -> Member:
    """The family in one of its layouts."""
    return Member(
        vocabulary=VOCABULARY if layout == "internvl" else VOCABULARY._replace(chat_template=None),
        geometries={name: published_of(config, layout) for name, config in _GEOMETRIES.items()},
        files=lambda published: files_of(dataclasses.replace(define(published).config, max_tiles=4), layout),
        layout_of="" if layout == "internvl" else "internvl",
        texts=CODE if layout == "internvl_chat" else {},
        sizes=((40, 40), (90, 50), (100, 170)),
        image_inputs=image_inputs,
        reference_config=untied if layout == "internvl" else lambda published: converted(published)["config.json"],
        draw=draw_internvl,
    )


MEMBER, CHAT = member_of("internvl"), member_of("internvl_chat")
