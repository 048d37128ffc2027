"""Loading and saving Hugging Face folders, held against transformers' own."""

import json
import math
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from mmkp_jax.families.qwen2_5_vl.names import NAMES
from mmkp_jax.families.registry import define
from mmkp_jax.hf import tensors
from mmkp_jax.hf.folder import Folder, load_tokenizer, open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.names import compact, published_name, published_tensors
from mmkp_jax.hf.save import save_params
from mmkp_jax.models.definition import Params, flatten, random_params, unflatten
from tests.support.devices import fake_devices
from tests.support.ports import free_port
from tests.support.published import QWEN2_5_VL_3B
from tests.support.tiny import hf_config_dict, hf_model, tiny_config, write_model, write_tokenizer

TABLE = NAMES


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def saved(request, tmp_path_factory):
    """A folder that transformers wrote, and the model in it."""
    root = tmp_path_factory.mktemp("saved")
    write_model(root, tiny_config(tie_embeddings=request.param), seed=3)
    model, path = hf_model(root), root / "theirs"
    model.save_pretrained(path)
    write_tokenizer(path)
    return path, model


def with_weights(saved_path, path):
    """A folder to write weights into, with the tokenizer and the config of another."""
    shutil.copytree(saved_path, path, ignore=shutil.ignore_patterns("model*.safetensors*"))
    return path


def load_float32(path) -> Params:
    folder = open_folder(str(path))
    return load_params(folder, define(folder.config).shapes())


def all_tensors(path) -> dict[str, np.ndarray]:
    return {name: array for file in path.glob("*.safetensors") for name, array in load_file(file).items()}


def assert_same(one: Params, other: Params) -> None:
    one, other = flatten(one), flatten(other)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]), err_msg=name)


def assert_holds(params: Params, model) -> None:
    """Every number of transformers' model is where our table says."""
    theirs = {published_name(name, TABLE): weight.numpy() for name, weight in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del theirs["lm_head.weight"]
    arrays = flatten(params)
    parts = published_tensors({path: array.shape for path, array in arrays.items()}, TABLE)
    assert sorted(theirs) == sorted(part.name for of_path in parts.values() for part in of_path)
    for path, of_path in parts.items():
        for part in of_path:
            ours = arrays[path] if part.layer is None else arrays[path][part.layer]
            np.testing.assert_array_equal(np.asarray(ours), theirs[part.name], err_msg=part.name)


def test_loads_what_transformers_saves(saved):
    path, model = saved
    assert_holds(load_float32(path), model)


def test_loads_shards_with_an_index(saved, tmp_path):
    path, model = saved
    model.save_pretrained(with_weights(path, tmp_path / "sharded"), max_shard_size="200KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    assert_holds(load_float32(tmp_path / "sharded"), model)


def test_accepts_the_names_inside_transformers_5(saved, tmp_path):
    from safetensors.torch import save_file as save_torch

    path, model = saved
    inside = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert "model.language_model.norm.weight" in inside
    save_torch(inside, with_weights(path, tmp_path / "inside") / "model.safetensors")
    assert_holds(load_float32(tmp_path / "inside"), model)


def test_a_tied_checkpoint_may_carry_its_head(tmp_path):
    path = write_folder(tmp_path)
    tensors = load_file(path / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, path / "model.safetensors")
    assert "lm_head" not in load_float32(path)


@pytest.mark.parametrize("tied", [True, False])
def test_both_layouts_of_config_give_one_geometry(tied):
    config = tiny_config(tie_embeddings=tied)
    assert define(hf_config_dict(config)).config == config
    assert define(hf_config_dict(config, nested=True)).config == config


def test_load_then_save_gives_the_same_bytes(saved, tmp_path):
    path, _ = saved
    save_params(load_float32(path), json.loads((path / "config.json").read_text()), tmp_path)
    before, after = all_tensors(path), all_tensors(tmp_path)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype
        assert before[name].tobytes() == after[name].tobytes()
    assert (tmp_path / "config.json").read_text().strip() == (path / "config.json").read_text().strip()


def write_folder(path, **how):
    """Our own save of random parameters."""
    published = hf_config_dict(tiny_config())
    save_params(random_params(define(published), seed=5), published, path, **how)
    write_tokenizer(path)
    return path


@pytest.mark.parametrize("max_shard_bytes", [10**9, 200_000, 1])
def test_save_then_load_gives_the_same_params(tmp_path, max_shard_bytes):
    path = write_folder(tmp_path, max_shard_bytes=max_shard_bytes)
    files = sorted(path.glob("*.safetensors"))
    if max_shard_bytes == 10**9:
        assert [file.name for file in files] == ["model.safetensors"]
    if max_shard_bytes == 200_000:
        assert all(sum(array.nbytes for array in load_file(file).values()) <= 200_000 for file in files)
    if max_shard_bytes == 1:
        assert all(len(load_file(file)) == 1 for file in files)
    assert_same(load_float32(path), random_params(define(hf_config_dict(tiny_config())), seed=5))
    assert not list(path.glob(".*"))


def test_transformers_loads_what_we_save(saved, tmp_path):
    from transformers import Qwen2_5_VLForConditionalGeneration

    path, model = saved
    config = tiny_config(tie_embeddings=model.config.tie_word_embeddings)
    save_params(load_float32(path), hf_config_dict(config), tmp_path, max_shard_bytes=200_000)
    again = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path, dtype="float32")
    for name, weight in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), weight.numpy(), err_msg=name)


@pytest.mark.parametrize(("on_disk", "loaded"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_load_casts_to_the_target(tmp_path, on_disk, loaded):
    path = write_folder(tmp_path, dtype=jnp.dtype(on_disk))
    folder = open_folder(str(path))
    assert {tensor.dtype for tensor in folder.tensors.values()} == {{"float32": "F32", "bfloat16": "BF16"}[on_disk]}
    structs = flatten(define(folder.config).shapes())
    target = {name: jax.ShapeDtypeStruct(struct.shape, loaded) for name, struct in structs.items()}
    numbers = flatten(random_params(define(folder.config), seed=5))
    expected = {name: array.astype(jnp.dtype(on_disk)).astype(jnp.dtype(loaded)) for name, array in numbers.items()}
    assert_same(load_params(folder, unflatten(target)), unflatten(expected))


def test_reading_by_blocks_changes_nothing(tmp_path, monkeypatch):
    folder = open_folder(str(write_folder(tmp_path)))
    whole = load_file(tmp_path / "model.safetensors")
    monkeypatch.setattr(tensors, "BLOCK_BYTES", 1000)
    for name, tensor in folder.tensors.items():
        part = (slice(1, -2), *[slice(None)] * (len(tensor.shape) - 1))
        np.testing.assert_array_equal(tensors.read(tensor, part), whole[name][part])
    name = "model.layers.1.mlp.down_proj.weight"
    part = (slice(None), slice(10, 20))
    np.testing.assert_array_equal(tensors.read(folder.tensors[name], part), whole[name][part])


def run_sharded(*arguments: str, devices: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.sharded_load", *arguments],
        env=fake_devices(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.nightly
def test_every_shard_on_a_mesh_is_read_once_and_equals_the_plain_load(tmp_path):
    meshes = ["1x8x1", "4x2x1", "2x2x2"]
    process = run_sharded(str(write_folder(tmp_path)), ",".join(meshes), devices=8)
    try:
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert all(f"equal on {mesh} devices of 1 processes" in said for mesh in meshes), said


def test_every_shard_of_two_processes_is_read_once_and_equals_the_plain_load(tmp_path):
    path, meshes = str(write_folder(tmp_path)), ["1x4x1", "1x2x2"]
    address = f"127.0.0.1:{free_port()}"
    processes = [run_sharded(path, ",".join(meshes), address, "2", str(number), devices=2) for number in range(2)]
    try:
        for process in processes:
            said, _ = process.communicate(timeout=120)
            assert all(f"equal on {mesh} devices of 2 processes" in said for mesh in meshes), said
    finally:
        for process in processes:
            process.kill()


def test_a_sharding_may_not_split_the_layers(tmp_path):
    folder = open_folder(str(write_folder(tmp_path)))
    mesh = jax.make_mesh((1,), ("fsdp",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    structs = flatten(define(folder.config).shapes())
    target = {
        name: jax.ShapeDtypeStruct(struct.shape, struct.dtype, sharding=sharding) for name, struct in structs.items()
    }
    with pytest.raises(ValueError, match="splits the layers of a stack"):
        load_params(folder, unflatten(target))


def test_loads_the_tokenizer(tmp_path):
    write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(Folder(tmp_path, hf_config_dict(tiny_config()), {}))
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == tiny_config().image_token_id
    assert tokenizer.decode(tokenizer("a post é").input_ids) == "a post é"


def test_the_table_gives_the_published_3b():
    """Number of tensors and of parameters as in the published index."""
    shapes = flatten(define(hf_config_dict(QWEN2_5_VL_3B)).shapes())
    parts = published_tensors({path: struct.shape for path, struct in shapes.items()}, TABLE)
    tensors = [part for of_path in parts.values() for part in of_path]
    assert len({part.name for part in tensors}) == len(tensors) == 824
    assert sum(math.prod(part.shape) for part in tensors) == 3_754_622_976


def test_names_in_messages_are_grouped_by_layer():
    names = [f"model.layers.{layer}.norm.weight" for layer in (0, 2, 3, 4)]
    assert compact(names) == "model.layers.{0,2..4}.norm.weight"
    assert compact(["visual.merger.mlp.0.bias", "lm_head.weight"]) == "visual.merger.mlp.0.bias, lm_head.weight"
