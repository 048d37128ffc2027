"""Folders of every family, in every published layout: what comes in goes out byte for byte, under the same names."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmkp_jax.families.registry import define
from mmkp_jax.hf.export import export_folder
from mmkp_jax.hf.folder import load_tokenizer, open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.prompt_limits import PROMPT_LIMITS, PromptLimits
from mmkp_jax.hf.save import save_params
from mmkp_jax.models.definition import flatten
from mmkp_jax.models.freezing import split_params
from tests.support.zoo import ZOO, all_geometries, model_of, reference_of, write_folder, write_others

LAYOUTS = [
    pytest.param(name, geometry, id=f"{name}, {geometry}", marks=() if not number else pytest.mark.nightly)
    for name, member in ZOO.items()
    for number, geometry in enumerate(member.geometries)
]
CHANGED = {"README.md", PROMPT_LIMITS}
"""Files of an export that are not the base's; those with settings of images are compared where families are."""


def weights_of(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.glob("*.safetensors*")}


@pytest.mark.parametrize("name, geometry", LAYOUTS)
def test_import_then_export_gives_the_same_bytes(tmp_path, name, geometry):
    """Of bfloat16 in several files, with a part of the model frozen."""
    model = model_of(name, geometry)
    base = write_folder(tmp_path / "base", model, dtype=np.dtype("bfloat16"), max_shard_bytes=150_000)
    assert len(list(base.glob("model-*.safetensors"))) > 1
    folder = open_folder(str(base))
    definition = define(folder.config, folder.config_file)
    params = load_params(folder, definition.shapes())
    parts = split_params(params, definition.family.paths(("tower", "head" if "lm_head" in params else "tower")))
    images = definition.processor.settings
    counts = export_folder(
        *parts, folder, tmp_path / "out", images=images, limits=PromptLimits(96, 24), card="# card\n"
    )
    assert weights_of(tmp_path / "out") == weights_of(base)
    assert counts.trained + counts.copied == len(folder.tensors) and counts.trained > 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {file.name for file in base.iterdir()} | CHANGED
    for file in base.iterdir():
        if file.name not in CHANGED and not file.name.endswith("processor_config.json"):
            again = (tmp_path / "out" / file.name).read_bytes()
            assert again == file.read_bytes() or file.name == "config.json", file.name


@pytest.mark.parametrize("name, geometry", LAYOUTS)
def test_parameters_come_back_and_the_tokenizer_knows_the_models_tokens(tmp_path, name, geometry):
    model = model_of(name, geometry)
    folder = open_folder(str(write_folder(tmp_path, model)))
    loaded = flatten(load_params(folder, define(folder.config).shapes()))
    for path, array in flatten(model.params).items():
        np.testing.assert_array_equal(loaded[path], array, err_msg=path)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.convert_tokens_to_ids(model.member.vocabulary.end) == tokenizer.eos_token_id
    assert model.processor.template(tokenizer).image_token == model.processor.image_token
    assert tokenizer.decode(tokenizer("a post é", add_special_tokens=False).input_ids) == "a post é"


@pytest.mark.parametrize("name, geometry", all_geometries())
def test_what_transformers_saves_has_our_names_and_is_read(tmp_path, name, geometry):
    """In the layout that transformers loads, where it is not the family's own."""
    model = model_of(name, geometry)
    config = model.member.reference_config(model.published)
    reference_of(name, geometry).save_pretrained(tmp_path / "theirs")
    write_others(tmp_path / "theirs", model)
    save_params(model.params, config, tmp_path / "ours")
    ours, theirs = (load_file(tmp_path / who / "model.safetensors") for who in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for tensor, array in ours.items():
        np.testing.assert_array_equal(theirs[tensor], array, err_msg=tensor)
    folder = open_folder(str(tmp_path / "theirs"))
    definition = define(folder.config, folder.config_file)
    assert definition.config == define(config).config
    loaded = flatten(load_params(folder, definition.shapes()))
    for path, array in flatten(model.params).items():
        np.testing.assert_array_equal(loaded[path], array, err_msg=path)
