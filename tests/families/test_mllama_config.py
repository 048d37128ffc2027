"""Configs of Llama 3.2 Vision: what is read, what is refused in one line, and the published models' tensors."""

import math

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.families.mllama.config import config_from_hf
from mmkp_jax.families.registry import define, known_config
from mmkp_jax.hf.names import pieces_of, published_name, published_tensors
from mmkp_jax.models.definition import flatten
from mmkp_jax.models.freezing import split_params
from tests.support.needs_torch import needs_torch
from tests.support.zoo_mllama import config

INSTRUCT, BASE = (f"meta-llama/Llama-3.2-11B-Vision{end}" for end in ("-Instruct", ""))


def shapes_of(hub_id: str) -> dict[str, tuple[int, ...]]:
    """Published shapes by name; nothing is allocated."""
    definition = define(known_config(hub_id))
    shapes = {path: leaf.shape for path, leaf in flatten(definition.shapes()).items()}
    pieces = pieces_of(published_tensors(shapes, definition.family.names))
    return {name: parts[0].shape for name, (_, parts) in pieces.items()}


@pytest.mark.parametrize("hub_id, parameters", [(INSTRUCT, 10_670_220_835), (BASE, 10_642_941_475)])
def test_published_models_have_the_published_tensors(hub_id, parameters):
    """Counts of transformers' model on the meta device: base and Instruct differ in the side of a tile."""
    shapes = shapes_of(hub_id)
    assert len(shapes) == 906 and sum(map(math.prod, shapes.values())) == parameters
    parts = [sum(name.startswith(part) for name in shapes) for part in ("language_", "vision_", "multi_modal_")]
    assert parts == [395, 509, 2]
    keys = 1601 if hub_id == INSTRUCT else 1025
    assert shapes["vision_model.gated_positional_embedding.tile_embedding.weight"] == (9, 4 * keys * 1280)
    assert shapes["language_model.model.embed_tokens.weight"] == (128_264, 4096)
    assert shapes["language_model.lm_head.weight"] == (128_256, 4096)
    assert shapes["multi_modal_projector.weight"] == (4096, 7680)


def test_layers_of_both_kinds_have_their_published_numbers():
    shapes = shapes_of(INSTRUCT)

    def numbers(kind: str) -> set[int]:
        prefix = "language_model.model.layers."
        return {int(name.removeprefix(prefix).split(".")[0]) for name in shapes if kind in name and prefix in name}

    assert numbers("cross_attn.q_proj") == {3, 8, 13, 18, 23, 28, 33, 38}
    assert numbers("self_attn.q_proj") == set(range(40)) - numbers("cross_attn.q_proj")
    assert numbers("mlp.up_proj") == set(range(40))
    layers = define(known_config(INSTRUCT)).layers
    assert [i for i, layer in enumerate(layers) if layer.cross] == sorted(numbers("cross_attn.q_proj"))
    assert [layer.index for layer in layers if not layer.cross] == list(range(32))


def test_an_absent_field_is_what_transformers_takes():
    """Many folders hold only what differs from these: the base model's tile and no scaling of positions."""
    bare = config_from_hf({"model_type": "mllama", "text_config": {}, "vision_config": None})
    published = known_config(BASE)
    unscaled = published | {"text_config": published["text_config"] | {"rope_scaling": None}}
    assert bare == config_from_hf(unscaled)
    tower = config_from_hf(known_config(INSTRUCT)).vision
    assert (tower.image_size, tower.tile_keys, tower.slots) == (560, 1601, 4 * 1608)


def test_other_spellings_of_a_field_are_read():
    renamed = config(vision={"image_size": [56, 56], "attention_heads": None, "num_attention_heads": 2})
    renamed |= {"image_token_id": renamed["image_token_index"], "image_token_index": None}
    assert config_from_hf(renamed) == config_from_hf(config())


FAULTS = {
    "cross_attention_layers": (dict(text={"cross_attention_layers": [2]}), "every fifth layer from 3 on"),
    "layers": (dict(text={"num_hidden_layers": 6}), "every fifth layer from 3 on"),
    "tie_word_embeddings": (dict(text={"tie_word_embeddings": True}), "tie_word_embeddings' is .rue, not False"),
    "head_dim": (dict(text={"head_dim": 8}), "head_dim' is 8, not 16"),
    "dropout": (dict(text={"dropout": 0.1}), "dropout' is 0.1, not 0.0"),
    "rope": (dict(text={"rope_scaling": {"rope_type": "yarn"}}), "yarn"),
    "activation": (dict(vision={"hidden_act": "quick_gelu"}), "hidden_act' is .quick_gelu., not 'gelu'"),
    "taps beyond the tower": (dict(vision={"intermediate_layers_indices": [1, 4]}), r"\[1, 4\] are not ascending"),
    "taps out of order": (dict(vision={"intermediate_layers_indices": [2, 1]}), r"\[2, 1\] are not ascending"),
    "features": (dict(vision={"vision_output_dim": 64}), "vision_output_dim' is 64, not 96"),
    "canvases": (dict(vision={"supported_aspect_ratios": [[1, 1]]}), "every canvas of at most 4 tiles"),
    "tile": (dict(vision={"image_size": 60}), "a tile of 60 pixels is not made of patches of 14"),
    "two sides": (dict(vision={"image_size": [56, 70]}), "the side of a square"),
    "heads": (dict(vision={"attention_heads": 3}), "hidden_size 32 is no multiple of its attention_heads 3"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_not_implemented_is_refused_in_one_line(name):
    changes, message = FAULTS[name]
    with pytest.raises(InputError, match=message) as caught:
        config_from_hf(config(**changes), "ckpt/config.json")
    assert "\n" not in str(caught.value) and "ckpt/config.json" in str(caught.value)


def test_a_head_that_is_said_to_be_the_embedding_is_refused_at_the_top_too():
    with pytest.raises(InputError, match=r"'tie_word_embeddings' is true, not False"):
        config_from_hf(config() | {"tie_word_embeddings": True})


def test_an_image_token_beyond_the_embedding_and_a_quantised_model_are_refused():
    with pytest.raises(InputError, match="the image token 400 is not from 0 to 328, the embedding's rows"):
        config_from_hf(config() | {"image_token_index": 400})
    with pytest.raises(InputError, match="quantised by AWQ"):
        config_from_hf(config() | {"quantization_config": {"quant_method": "awq"}})


def test_the_papers_freeze_leaves_projector_and_decoder_to_train():
    """Embeddings of positions and tiles are the tower's, gates of cross-attention the decoder's."""
    definition = define(known_config(INSTRUCT))
    trained, frozen = split_params(definition.shapes(), definition.family.paths(["tower"]))
    assert {path.split(".")[0] for path in flatten(trained)} == {"projector", "decoder", "lm_head"}
    assert {path.split(".")[0] for path in flatten(frozen)} == {"tower"}
    assert {"decoder.cross.attention_gate", "decoder.cross.mlp_gate"} <= flatten(trained).keys()


@pytest.mark.parametrize("hub_id", [INSTRUCT, pytest.param(BASE, marks=pytest.mark.nightly)])
def test_names_and_shapes_are_those_of_transformers(hub_id):
    """Its model on the meta device, whose names are those in memory: aliases of the published ones."""
    torch = needs_torch()
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    with torch.device("meta"):
        model = MllamaForConditionalGeneration(MllamaConfig(**known_config(hub_id)))
    names = define(known_config(hub_id)).family.names
    theirs = {published_name(name, names): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert theirs == shapes_of(hub_id)
