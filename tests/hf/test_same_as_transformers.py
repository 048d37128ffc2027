"""Every field of a `config.json`, changed: our logits are transformers' of the same folder, or it is refused."""

import copy
import dataclasses
import functools
import json

import numpy as np
import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from tests.support.parity import BOUND, our_logits, relative_error, their_logits
from tests.support.tiny import hf_config_dict, hf_model, tiny_config, write_model
from tests.support.trees import forest_of, random_tree

CONFIG = tiny_config(
    num_layers=1,
    rms_norm_eps=1e-3,
    vision=dataclasses.replace(tiny_config().vision, depth=2, full_attention_layers=(1,)),
)
SECTIONS = list(CONFIG.mrope_section)
MROPE = {"type": "mrope", "mrope_section": SECTIONS}
ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": SECTIONS}
OTHER = {"rope_type": "default", "rope_theta": 50.0, "mrope_section": [4, 2, 2]}
TREE = random_tree(0, CONFIG, grids=[(10, 18)], cot=0)

FLAT, NESTED = {False: hf_config_dict(CONFIG), True: hf_config_dict(CONFIG, nested=True)}.values()
READ, IGNORED, REFUSED = "other numbers", "the same numbers", "refused"

CASES = {
    # decoder, the published flat layout
    "rope_theta": (FLAT, {"rope_theta": 100.0}, READ),
    "rope_theta inside and outside": (FLAT, {"rope_scaling": {**MROPE, "rope_theta": 100.0}}, READ),
    "mrope_section": (FLAT, {"rope_scaling": {**MROPE, "mrope_section": [4, 2, 2]}}, READ),
    "rope_parameters and other rope_scaling": (FLAT, {"rope_parameters": ROPE, "rope_scaling": OTHER}, READ),
    "rope_parameters and no rope_scaling": (FLAT, {"rope_parameters": OTHER, "rope_scaling": None}, READ),
    "rope_parameters and empty rope_scaling": (FLAT, {"rope_parameters": OTHER, "rope_scaling": {}}, READ),
    "rope_parameters and yarn": (
        FLAT,
        {"rope_parameters": ROPE, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mrope_section": SECTIONS}},
        REFUSED,
    ),
    "yarn by its old name": (FLAT, {"rope_scaling": {**MROPE, "type": "yarn", "factor": 4.0}}, REFUSED),
    "a factor without a type": (FLAT, {"rope_scaling": {**MROPE, "factor": 4.0}}, IGNORED),
    "rope by kinds of layers": (FLAT, {"rope_scaling": {"full_attention": ROPE}}, REFUSED),
    "rms_norm_eps": (FLAT, {"rms_norm_eps": 1e-1}, READ),
    "num_attention_heads": (
        FLAT,
        {
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        },
        READ,
    ),
    "num_key_value_heads": (FLAT, {"num_key_value_heads": 4}, REFUSED),  # by the tensors' shapes
    "head_dim": (FLAT, {"head_dim": 8}, REFUSED),
    "hidden_act": (FLAT, {"hidden_act": "gelu"}, REFUSED),
    "hidden_act by another name": (FLAT, {"hidden_act": "swish"}, IGNORED),
    "use_sliding_window": (FLAT, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, REFUSED),
    "sliding_window": (FLAT, {"sliding_window": 4, "max_window_layers": 0}, IGNORED),
    "layer_types": (FLAT, {"layer_types": ["sliding_attention"], "sliding_window": 4}, REFUSED),
    "layer_types that are none": (FLAT, {"layer_types": ["full_attention"]}, IGNORED),
    "per_layer_config": (FLAT, {"per_layer_config": {"0": {"num_key_value_heads": 1}}}, REFUSED),
    "quantization_config": (FLAT, {"quantization_config": {"quant_method": "fp8"}}, REFUSED),
    "attention_dropout": (FLAT, {"attention_dropout": 0.5}, IGNORED),  # in training only
    "attention_bias": (FLAT, {"attention_bias": False}, IGNORED),
    "max_position_embeddings": (FLAT, {"max_position_embeddings": 8}, IGNORED),
    "initializer_range": (FLAT, {"initializer_range": 1.0}, IGNORED),
    "pad_token_id": (FLAT, {"pad_token_id": int(TREE.prompt[0])}, IGNORED),
    "vision_start_token_id": (FLAT, {"vision_start_token_id": 0, "vision_end_token_id": 1}, IGNORED),
    "video_token_id": (FLAT, {"video_token_id": 2}, IGNORED),
    "torch_dtype": (FLAT, {"torch_dtype": "bfloat16"}, IGNORED),  # of weights that are read as float32
    # decoder, transformers 5's nested layout: what stands outside does not count
    "nested rope_scaling": (NESTED, {"text_config": {"rope_scaling": OTHER}}, READ),
    "nested rope_theta": (
        NESTED,
        {"text_config": {"rope_theta": 100.0, "rope_parameters": {"rope_type": "default", "mrope_section": SECTIONS}}},
        READ,
    ),
    "nested rope_theta against the one inside": (NESTED, {"text_config": {"rope_theta": 100.0}}, IGNORED),
    "fields outside the nested ones": (
        NESTED,
        {"rope_theta": 100.0, "rope_scaling": OTHER, "rms_norm_eps": 0.1, "hidden_size": 8, "use_sliding_window": True},
        IGNORED,
    ),
    "nested sliding window": (NESTED, {"text_config": {"use_sliding_window": True, "max_window_layers": 0}}, REFUSED),
    "tied by the nested field": (
        NESTED,
        {"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}},
        IGNORED,
    ),
    "tied by the outer field": (NESTED, {"text_config": {"tie_word_embeddings": False}}, IGNORED),
    "tied by no field, without a head": (NESTED, {"tie_word_embeddings": False}, REFUSED),
    # the tower
    "tower's rope_theta inside": (FLAT, {"vision_config": {"rope_parameters": {"rope_theta": 500.0}}}, READ),
    "tower's rope_theta": (FLAT, {"vision_config": {"rope_theta": 500.0}}, READ),
    "tower's rope_scaling": (
        FLAT,
        {"vision_config": {"rope_scaling": {"rope_theta": 500.0}, "rope_parameters": {"rope_theta": 700.0}}},
        READ,
    ),
    "tower's rope type": (FLAT, {"vision_config": {"rope_parameters": {"rope_type": "linear", "factor": 2}}}, REFUSED),
    "tower's rope type by name": (FLAT, {"vision_config": {"rope_parameters": {"rope_type": "axial"}}}, IGNORED),
    "tower's head_dim": (FLAT, {"vision_config": {"head_dim": 8}}, REFUSED),
    "tower's num_heads": (FLAT, {"vision_config": {"num_heads": 4}}, READ),
    "tower's num_heads by another name": (FLAT, {"vision_config": {"num_attention_heads": 4}}, REFUSED),
    "tower's depth by another name": (FLAT, {"vision_config": {"num_hidden_layers": 1}}, REFUSED),
    "window_size": (FLAT, {"vision_config": {"window_size": 56}}, READ),
    "fullatt_block_indexes": (FLAT, {"vision_config": {"fullatt_block_indexes": [0]}}, READ),
    "tower's hidden_act": (FLAT, {"vision_config": {"hidden_act": "gelu"}}, REFUSED),
    "patch_size": (FLAT, {"vision_config": {"patch_size": 16}}, REFUSED),
    "spatial_merge_size": (FLAT, {"vision_config": {"spatial_merge_size": 1}}, REFUSED),
    "in_channels": (FLAT, {"vision_config": {"in_channels": 1}}, REFUSED),
    "temporal_patch_size": (FLAT, {"vision_config": {"temporal_patch_size": 1}}, REFUSED),  # by the tensor's shape
    "tokens_per_second": (FLAT, {"vision_config": {"tokens_per_second": 50}}, IGNORED),
    "spatial_patch_size": (FLAT, {"vision_config": {"spatial_patch_size": 16}}, IGNORED),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with random weights."""
    folder = tmp_path_factory.mktemp("weights")
    write_model(folder, CONFIG)
    return folder


@functools.cache
def logits_of(config, folder) -> np.ndarray:
    """Ours, of the same weights; computed once for each geometry that is not distinguished."""
    published = json.loads((folder / "config.json").read_text())
    definition = define(published)
    assert definition.config == config
    params = load_params(open_folder(str(folder)), definition.shapes())
    layouts = [definition.processor.layout_of(layout.shape) for layout in TREE.layouts]  # windows may be others
    tree = dataclasses.replace(TREE, layouts=layouts)
    return our_logits(definition, params, forest_of([[tree]], config))[0]


@pytest.mark.parametrize(("published", "change", "expected"), CASES.values(), ids=CASES)
def test_a_changed_field_is_read_as_transformers_does_or_refused(weights, published, change, expected):
    changed = copy.deepcopy(published)
    for name, value in change.items():
        inside = name in ("text_config", "vision_config")
        changed[name] = {**changed[name], **value} if inside else value
    (weights / "config.json").write_text(json.dumps(changed))
    if expected == REFUSED:
        with pytest.raises(InputError) as caught:
            folder = open_folder(str(weights))
            load_params(folder, define(folder.config).shapes())
        assert "\n" not in str(caught.value)
        return
    config = define(open_folder(str(weights)).config).config
    assert (config == CONFIG) == (expected == IGNORED)
    logits = their_logits(hf_model(weights), TREE, TREE.sft, CONFIG)
    assert relative_error(logits_of(config, weights), logits) <= BOUND
    if expected == READ:  # the field counts: its old value gives other numbers
        (weights / "config.json").write_text(json.dumps(FLAT))
        assert relative_error(logits_of(CONFIG, weights), logits) > 10 * BOUND
