"""Qwen2.5-VL in the zoo."""

from mmkp_jax.pocket.model import preprocessor_json
from mmkp_jax.pocket.tokenizer import QWEN2_5_VL
from tests.support.needs_torch import needs_torch
from tests.support.parity import pixel_values
from tests.support.tiny import hf_config_dict, tiny_config
from tests.support.zoo_member import Member, number_of


def image_inputs(tree, ids, definition):
    grids = needs_torch().tensor([(1, *layout.shape) for layout in tree.layouts])
    return {"pixel_values": pixel_values(tree), "image_grid_thw": grids}


MEMBER = Member(
    vocabulary=QWEN2_5_VL,
    geometries={
        "tied, 2 of 4 kv heads": hf_config_dict(tiny_config()),
        "untied, 4 of 8 kv heads": hf_config_dict(
            tiny_config(tie_embeddings=False, num_heads=8, num_kv_heads=4, mrope_section=(1, 2, 1), rope_theta=10_000.0)
        ),
        "config as transformers 5 writes it": hf_config_dict(tiny_config(rms_norm_eps=1e-5), nested=True),
    },
    files=lambda published: {
        "preprocessor_config.json": preprocessor_json(),
        "generation_config.json": {
            "bos_token_id": number_of(QWEN2_5_VL, "<|endoftext|>"),
            "eos_token_id": [number_of(QWEN2_5_VL, token) for token in ("<|im_end|>", "<|endoftext|>")],
        },
    },
    sizes=((56, 56), (140, 252), (56, 84)),
    image_inputs=image_inputs,
)
