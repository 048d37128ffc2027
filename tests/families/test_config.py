"""Every fault of a Qwen2.5-VL `config.json` is one line: what, where, and how to fix it."""

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.families.config_fields import HINT
from mmkp_jax.families.qwen2_5_vl.config import FULL_ATTENTION, config_from_hf
from tests.support.published import QWEN2_5_VL_3B, QWEN2_5_VL_7B
from tests.support.tiny import hf_config_dict, tiny_config

VISION = hf_config_dict(tiny_config())["vision_config"]


def vision(**change):
    return {"vision_config": {**VISION, **change}}


def rope(section):
    return {"rope_scaling": {"type": "mrope", "mrope_section": section}}


ONLY = "which is all that is implemented"
SIZE = "not a whole number from 1 to 10,000,000"

FAULTS = [
    # of another type
    ({"text_config": []}, "'text_config' is a list, not an object"),
    ({"vision_config": None}, "has no 'vision_config'"),
    ({"rope_scaling": "mrope"}, "'rope_scaling' is \"mrope\", not an object"),
    ({"rope_parameters": [1]}, "'rope_parameters' is a list, not an object"),
    ({"hidden_size": "64"}, "'hidden_size' is \"64\", not a whole number"),
    ({"hidden_size": 64.0}, "'hidden_size' is 64.0, not a whole number"),
    ({"hidden_size": 10**30}, "'hidden_size' is a number of many digits, not a whole number"),
    ({"hidden_size": 2**40}, f"'hidden_size' is 1099511627776, {SIZE}"),
    ({"num_hidden_layers": True}, "'num_hidden_layers' is true, not a whole number"),
    ({"num_hidden_layers": 10**6}, "'num_hidden_layers' is 1000000, not a whole number from 1 to 1,000"),
    ({"num_attention_heads": 0}, f"'num_attention_heads' is 0, {SIZE}"),
    ({"rms_norm_eps": "1e-6"}, "'rms_norm_eps' is \"1e-6\", not a finite number"),
    ({"rms_norm_eps": 0}, "'rms_norm_eps' is 0, not a number above 0"),
    ({"rope_theta": float("nan")}, "'rope_theta' is NaN, not a finite number"),
    ({"tie_word_embeddings": "false"}, "'tie_word_embeddings' is \"false\", not true or false"),
    (rope(7), "'rope_scaling.mrope_section' is 7, not a list of finite numbers"),
    (rope([2, 3, "3"]), "'rope_scaling.mrope_section' is a list, not a list of finite numbers"),
    (rope([2, 3, 3.0]), "'rope_scaling.mrope_section' is a list, not a list of whole numbers from 0 on"),
    (vision(depth=[4]), "'vision_config.depth' is a list, not a whole number"),
    (vision(fullatt_block_indexes=7), "'vision_config.fullatt_block_indexes' is 7, not a list"),
    (
        vision(fullatt_block_indexes=[-1]),
        "'vision_config.fullatt_block_indexes' is a list, not a list of whole numbers",
    ),
    ({"layer_types": [{}]}, "'layer_types' is a list, not a list of texts"),
    # absent
    ({"image_token_id": None}, "has no 'image_token_id'"),
    (vision(fullatt_block_indexes=None), "has no 'vision_config.fullatt_block_indexes'"),
    ({"text_config": {"hidden_size": 64}}, "has no 'text_config.vocab_size'"),
    # not implemented
    ({"compression_config": {"bits": 4}}, "'compression_config' is an object, not absent"),
    ({"hidden_act": "gelu"}, f"'hidden_act' is \"gelu\", not 'silu' or 'swish', {ONLY}"),
    ({"use_sliding_window": True}, f"'use_sliding_window' is true, not False, {ONLY}"),
    ({"layer_types": ["sliding_attention"] * 3}, "'layer_types' is a list, not 3 times 'full_attention'"),
    ({"rope_scaling": {"rope_type": "yarn", "type": "mrope", "factor": 2.0}}, "'rope_scaling.rope_type' is \"yarn\""),
    (vision(patch_size=16), f"'vision_config.patch_size' is 16, not 14, {ONLY}"),
    (vision(spatial_merge_size=3), f"'vision_config.spatial_merge_size' is 3, not 2, {ONLY}"),
    (vision(in_channels="3"), f"'vision_config.in_channels' is \"3\", not 3, {ONLY}"),
    (vision(in_channels=None, in_chans=1), f"'vision_config.in_chans' is 1, not 3, {ONLY}"),
    # at odds with another
    (rope([4, 4]), "mrope_section [4, 4] is not three numbers that sum to half of a head's width 16"),
    (rope([2, 3, 4]), "mrope_section [2, 3, 4] is not three numbers that sum to half of a head's width 16"),
    ({"rope_scaling": None}, "mrope_section [16, 24, 24] is not three numbers that sum to half of a head's width 16"),
    ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
    ({"num_attention_heads": 6}, "hidden_size 64 is no multiple of num_attention_heads 6"),
    ({"image_token_id": 320}, "image_token_id 320 is not below vocab_size 320"),
    (vision(num_heads=3), "vision_config.hidden_size 32 is no multiple of 4 times its num_heads 3"),
    (vision(out_hidden_size=63), "vision_config.out_hidden_size 63 is not hidden_size 64"),
    (vision(fullatt_block_indexes=[1, 4]), "fullatt_block_indexes [1, 4] goes beyond the tower's depth 4"),
    (vision(window_size=20), "window_size 20 is less than a merged patch"),
]


@pytest.mark.parametrize(("change", "what"), FAULTS, ids=[what for _, what in FAULTS])
def test_a_fault_is_reported_in_one_line(change, what):
    with pytest.raises(InputError) as caught:
        config_from_hf({**hf_config_dict(tiny_config()), **change}, "ckpt/config.json")
    line = str(caught.value)
    assert line.startswith(f"ckpt/config.json: {what}") and "\n" not in line
    assert line.endswith(f"; {FULL_ATTENTION if 'sliding' in str(change) else HINT}")


@pytest.mark.parametrize(
    "content, by", [({"quant_method": "awq", "bits": 4}, " by AWQ"), ({"quant_method": "gptq"}, " by GPTQ"), ({}, "")]
)
def test_a_quantised_model_is_reported_in_one_short_line(content, by):
    with pytest.raises(InputError) as caught:
        config_from_hf({**hf_config_dict(tiny_config()), "quantization_config": content}, "ckpt/config.json")
    what = f"ckpt/config.json: 'quantization_config' says that the weights are quantised{by}"
    assert str(caught.value) == f"{what}; take the checkpoint that is not quantised, in bfloat16"


def test_inconsistent_sizes_are_reported_at_once():
    change = {"num_key_value_heads": 3, **vision(out_hidden_size=63)}
    with pytest.raises(InputError, match=r"num_key_value_heads 3; vision_config\.out_hidden_size 63 is not"):
        config_from_hf({**hf_config_dict(tiny_config()), **change})


@pytest.mark.parametrize("config", [QWEN2_5_VL_3B, QWEN2_5_VL_7B, tiny_config()], ids=["3b", "7b", "tiny"])
@pytest.mark.parametrize("nested", [False, True])
def test_what_is_published_is_read(config, nested):
    assert config_from_hf(hf_config_dict(config, nested)) == config


def test_a_null_counts_as_absent_where_there_is_a_default():
    published = {**hf_config_dict(tiny_config()), "hidden_act": None, "use_sliding_window": None}
    published |= {"text_config": None, "rope_parameters": None, "quantization_config": None}
    published |= vision(temporal_patch_size=None, in_channels=None)
    assert config_from_hf(published) == tiny_config()
