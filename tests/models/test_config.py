"""Every fault of a Qwen2.5-VL `config.json` is told in one line: what, where, and how to mend it."""

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.models.qwen2_5_vl_config import QWEN2_5_VL_3B, QWEN2_5_VL_7B, config_from_hf
from tests.tiny import hf_config_dict, tiny_config

VISION = hf_config_dict(tiny_config())["vision_config"]


def vision(**change):
    return {"vision_config": {**VISION, **change}}


def rope(section):
    return {"rope_scaling": {"type": "mrope", "mrope_section": section}}


FAULTS = [
    # of another type
    ({"text_config": None}, "'text_config' of the config is None, not a JSON object"),
    ({"text_config": []}, "'text_config' of the config is [], not a JSON object"),
    ({"vision_config": None}, "'vision_config' of the config is None, not a JSON object"),
    ({"rope_scaling": "mrope"}, "'rope_scaling' of the text config is 'mrope', not a JSON object"),
    ({"rope_scaling": None}, "'rope_scaling' of the text config is None, not a JSON object"),
    ({"rope_parameters": [1]}, "'rope_parameters' of the text config is [1], not a JSON object"),
    ({"hidden_size": "64"}, "'hidden_size' of the text config is '64', not a whole number from 1 on"),
    ({"hidden_size": 64.0}, "'hidden_size' of the text config is 64.0, not a whole number from 1 on"),
    ({"num_hidden_layers": True}, "'num_hidden_layers' of the text config is True, not a whole number from 1 on"),
    ({"num_attention_heads": 0}, "'num_attention_heads' of the text config is 0, not a whole number from 1 on"),
    ({"rms_norm_eps": "1e-6"}, "'rms_norm_eps' of the text config is '1e-6', not a number above 0"),
    ({"rms_norm_eps": 0}, "'rms_norm_eps' of the text config is 0, not a number above 0"),
    ({"rope_theta": float("nan")}, "'rope_theta' of the text config is nan, not a number above 0"),
    ({"tie_word_embeddings": "false"}, "'tie_word_embeddings' of the config is 'false', not true or false"),
    (rope(7), "'mrope_section' of the rope parameters is 7, not a list of whole numbers from 0 on"),
    (rope([2, 3, "3"]), "'mrope_section' of the rope parameters is [2, 3, '3'], not a list"),
    (vision(depth=[4]), "'depth' of the vision_config is [4], not a whole number from 1 on"),
    (vision(in_channels="3"), "'in_channels' of the vision_config is '3', not a whole number from 1 on"),
    (vision(fullatt_block_indexes=7), "'fullatt_block_indexes' of the vision_config is 7, not a list"),
    (vision(fullatt_block_indexes=[-1]), "'fullatt_block_indexes' of the vision_config is [-1], not a list"),
    # absent
    ({"image_token_id": None}, "the config has no 'image_token_id'"),
    (vision(fullatt_block_indexes=None), "the vision_config has no 'fullatt_block_indexes'"),
    # at odds with another
    (rope([4, 4]), "mrope_section [4, 4] is not three numbers that sum to half of a head's width 16"),
    (rope([2, 3, 4]), "mrope_section [2, 3, 4] is not three numbers that sum to half of a head's width 16"),
    ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
    ({"num_attention_heads": 6}, "hidden_size 64 is no multiple of num_attention_heads 6"),
    ({"image_token_id": 320}, "image_token_id 320 is not below vocab_size 320"),
    (vision(num_heads=3), "vision_config.hidden_size 32 is no multiple of 4 times its num_heads 3"),
    (vision(out_hidden_size=63), "vision_config.out_hidden_size 63 is not hidden_size 64"),
    (vision(fullatt_block_indexes=[1, 4]), "fullatt_block_indexes [1, 4] goes beyond the tower's depth 4"),
    (vision(window_size=20), "window_size 20 is less than a merged patch"),
]


@pytest.mark.parametrize(("change", "what"), FAULTS, ids=[what for _, what in FAULTS])
def test_a_fault_is_told_in_one_line(change, what):
    with pytest.raises(InputError) as caught:
        config_from_hf({**hf_config_dict(tiny_config()), **change}, "ckpt/config.json")
    line = str(caught.value)
    assert line.startswith(f"ckpt/config.json: {what}") and "\n" not in line
    assert line.endswith("; take the config.json published with the weights")


def test_sizes_at_odds_are_told_at_once():
    change = {"num_key_value_heads": 3, **vision(out_hidden_size=63)}
    with pytest.raises(InputError, match=r"num_key_value_heads 3; vision_config\.out_hidden_size 63 is not"):
        config_from_hf({**hf_config_dict(tiny_config()), **change})


@pytest.mark.parametrize("config", [QWEN2_5_VL_3B, QWEN2_5_VL_7B, tiny_config()], ids=["3b", "7b", "tiny"])
@pytest.mark.parametrize("nested", [False, True])
def test_what_is_published_is_read(config, nested):
    assert config_from_hf(hf_config_dict(config, nested)) == config


def test_a_null_counts_as_absent_where_there_is_a_default():
    published = {**hf_config_dict(tiny_config()), "hidden_act": None, "use_sliding_window": None}
    published |= {"rope_parameters": None, **vision(temporal_patch_size=None, in_channels=None)}
    assert config_from_hf(published) == tiny_config()
