"""Every fault of an InternVL3 `config.json`, in either layout, is one line: what, where, and how to fix it."""

import copy
import math

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.families.internvl.config import MODELS
from mmkp_jax.families.internvl_chat.converted import converted
from mmkp_jax.families.registry import define, known_config
from mmkp_jax.hf.names import published_tensors
from mmkp_jax.models.definition import flatten
from tests.support.needs_torch import needs_torch
from tests.support.tiny_internvl import LAYOUTS, published_of, tiny_internvl

ONLY = "which is all that is implemented"

FAULTS = {
    "internvl": [
        ("text_config.model_type", "internlm2", f"'text_config.model_type' is \"internlm2\", not 'qwen2', {ONLY}"),
        ("vision_config.norm_type", "rms_norm", "'vision_config.norm_type' is \"rms_norm\", not 'layer_norm'"),
        ("vision_config.use_qk_norm", True, "'vision_config.use_qk_norm' is true, not False"),
        ("vision_config.attention_bias", False, "'vision_config.attention_bias' is false, not True"),
        ("vision_config.attention_bias", None, "has no 'vision_config.attention_bias'"),
        ("vision_config.image_size", [56, 112], "'vision_config.image_size' is a list, not the side of a square"),
        ("vision_config.image_size", 70, "a tile of 70 pixels is not made of merged patches of 28"),
        ("vision_config.hidden_size", 33, "the tower's hidden_size 33 is no multiple of its num_attention_heads 2"),
        ("vision_feature_layer", -2, f"'vision_feature_layer' is -2, not -1, {ONLY}"),
        ("downsample_ratio", 0.25, f"'downsample_ratio' is 0.25, not 0.5, {ONLY}"),
        ("image_seq_length", 256, "'image_seq_length' is 256, not 4, which a tile of 56 pixels becomes"),
        ("image_token_id", 323, "the image token 323 is not from 0 to vocab_size 323"),
        ("text_config.rope_scaling", {"rope_type": "yarn", "factor": 2.0}, "'text_config.rope_scaling.rope_type' is"),
        ("text_config.use_sliding_window", True, "'text_config.use_sliding_window' is true, not False"),
        ("text_config.quantization_config", {"quant_method": "awq"}, "the weights are quantised by AWQ"),
        ("text_config.hidden_size", None, "has no 'text_config.hidden_size'"),
        ("vision_config", 5, "'vision_config' is 5, not an object"),
        ("tie_word_embeddings", "no", "'tie_word_embeddings' is \"no\", not true or false"),
    ],
    "internvl_chat": [
        ("llm_config.model_type", "internlm2", f"'llm_config.model_type' is \"internlm2\", not 'qwen2', {ONLY}"),
        ("vision_config.norm_type", "rms_norm", "'vision_config.norm_type' is \"rms_norm\", not 'layer_norm'"),
        ("vision_config.qk_normalization", True, "'vision_config.qk_normalization' is true, not False"),
        ("vision_config.qk_normalization", None, "has no 'vision_config.qk_normalization'"),
        ("vision_config.image_size", 112, "'vision_config.image_size' is 112, not 56"),
        ("ps_version", "v1", f"'ps_version' is \"v1\", not 'v2', {ONLY}"),
        ("ps_version", None, "has no 'ps_version'"),
        ("template", "internlm2-chat", "'template' is \"internlm2-chat\", not 'internvl2_5'"),
        ("select_layer", -4, f"'select_layer' is -4, not -1, {ONLY}"),
        ("use_thumbnail", False, "'use_thumbnail' is false, not True"),
        ("quantization_config", {"quant_method": "awq"}, "the weights are quantised by AWQ"),
        ("max_dynamic_patch", 0, "'max_dynamic_patch' is 0, not a whole number from 1 to 64"),
    ],
}


def changed(layout: str, place: str, value) -> dict:
    published = copy.deepcopy(published_of(tiny_internvl(), layout))
    *parents, name = place.split(".")
    part = published
    for parent in parents:
        part = part[parent]
    part[name] = value
    return published


CASES = [(layout, *fault) for layout, faults in FAULTS.items() for fault in faults]


@pytest.mark.parametrize(("layout", "place", "value", "what"), CASES, ids=[f"{case[0]}: {case[3]}" for case in CASES])
def test_a_fault_is_reported_in_one_line(layout, place, value, what):
    with pytest.raises(InputError) as caught:
        define(changed(layout, place, value), "ckpt/config.json")
    line = str(caught.value)
    assert line.startswith("ckpt/config.json: ") and what in line and "\n" not in line and "; take " in line
    of_another = ["internlm2", "internlm2-chat", "rms_norm", "v1"]  # so published: its own config is no help
    assert value not in of_another or line.endswith(f"; {MODELS}")


def test_both_layouts_describe_one_model():
    hf, chat = (define(published_of(tiny_internvl(max_tiles=6), layout)).config for layout in LAYOUTS)
    assert hf == tiny_internvl()
    assert chat == tiny_internvl(max_tiles=6, own_template=False, tie_embeddings=False)
    again = define(converted(published_of(tiny_internvl(), "internvl_chat"))["config.json"]).config
    assert again == tiny_internvl(tie_embeddings=False)


@pytest.mark.parametrize("size, parameters", [("2B", 2_088_957_440), ("8B", 7_944_373_760)])
@pytest.mark.parametrize("layout, tensors", [("-hf", 781), ("", 685)])
def test_published_models_have_their_tensors_and_parameters(size, parameters, layout, tensors):
    definition = define(known_config(f"OpenGVLab/InternVL3-{size}{layout}"))
    shapes = {path: leaf.shape for path, leaf in flatten(definition.shapes()).items()}
    parts = published_tensors(shapes, definition.family.names)
    found = {part.name: part.shape for of_path in parts.values() for part in of_path}
    assert (len(found), sum(map(math.prod, found.values()))) == (tensors, parameters)
    tower = {name for name in found if name.startswith("vision_")}
    assert len(tower) == (436 if layout else 340)
    assert found["language_model.model.embed_tokens.weight"] == found["language_model.lm_head.weight"]
    if not layout:
        assert found["vision_model.encoder.layers.23.attn.qkv.weight"] == (3072, 1024)


def test_names_and_shapes_of_the_published_2b_are_transformers():
    """Its own model on the meta device, under the names that it writes; one layer of each kind tells as much as all."""
    torch = needs_torch()
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    published = copy.deepcopy(known_config("OpenGVLab/InternVL3-2B-hf"))
    for part in ("text_config", "vision_config"):
        published[part]["num_hidden_layers"] = 1
    definition = define(published)
    shapes = {path: leaf.shape for path, leaf in flatten(definition.shapes()).items()}
    parts = published_tensors(shapes, definition.family.names)
    ours = {part.name: part.shape for of_path in parts.values() for part in of_path}
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(InternVLConfig.from_dict({**published, "tie_word_embeddings": False}))
    names = definition.family.names.aliases
    theirs = {}
    for name, tensor in model.state_dict().items():
        alias, prefix = next((pair for pair in names if name.startswith(pair[0])), ("", ""))
        theirs[prefix + name.removeprefix(alias)] = tuple(tensor.shape)
    assert ours == theirs
