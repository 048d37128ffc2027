"""Every fault of a folder is one line: what, where, and how to fix it."""

import errno
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmkp_jax.data.prompts import read_template
from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import Folder, load_tokenizer, open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.save import save_params
from mmkp_jax.models.definition import random_params
from tests.support.tiny import hf_config_dict, tiny_config, write_tokenizer

INDEX = "model.safetensors.index.json"


def write_folder(path: Path, max_shard_bytes: int = 10**9, **overrides) -> None:
    published = hf_config_dict(tiny_config(**overrides))
    numbers = random_params(define(published), seed=1)
    save_params(numbers, published, path, jnp.dtype(jnp.bfloat16), max_shard_bytes)
    write_tokenizer(path)


def reported(call, *arguments) -> str:
    """The one line of the error."""
    with pytest.raises(InputError) as caught:
        call(*arguments)
    error = caught.value
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None  # no chain of tracebacks
    assert "\n" not in str(error)
    assert error.hint and str(error).endswith(error.hint)
    return str(error)


def truncate(file: Path, size: int) -> None:
    os.truncate(file, size)


def edit_weights(folder: Path, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_index(folder: Path, edit) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index)
    (folder / INDEX).write_text(json.dumps(index))


def write_header(file: Path, header: bytes) -> None:
    file.write_bytes(len(header).to_bytes(8, "little") + header)


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def move_away(file: Path) -> None:
    """Leaves a link to where the file no longer is."""
    file.symlink_to(file.rename(file.parent / "blob"))
    (file.parent / "blob").unlink()


WHOLE = {
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        ["no config.json", "Hugging Face checkpoint"],
    ),
    "config is not JSON": (
        lambda folder: (folder / "config.json").write_text('{"model_type": '),
        ["config.json", "is not JSON (", "download"],
    ),
    "config is not UTF-8": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{}"),
        ["config.json:1", "is not UTF-8"],
    ),
    "config is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        ["config.json", "is a list, not a JSON object", "download"],
    ),
    "config is nested without end": (
        lambda folder: (folder / "config.json").write_text('{"a":' * 100_000),
        ["config.json", "nested too deep", "download"],
    ),
    "generation config is cut": (
        lambda folder: (folder / "generation_config.json").write_text('{"eos_token'),
        ["generation_config.json", "is not JSON (", "download"],
    ),
    "generation config is a number": (
        lambda folder: (folder / "generation_config.json").write_text("1"),
        ["generation_config.json", "is 1, not a JSON object", "download"],
    ),
    "an adapter": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        ["adapter_config.json", "holds an adapter", "merge it"],
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        ["tokenizer.json", "merges.txt", "base checkpoint"],
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        ["model.safetensors", INDEX, "download"],
    ),
    "pickles only": (
        only_pickles,
        ["pytorch_model.bin", "never opened", "safetensors", "save_pretrained"],
    ),
    "a link to no weights": (
        lambda folder: move_away(folder / "model.safetensors"),
        ["model.safetensors: this is a link to ", "blob, and no file is there", "what its links point to"],
    ),
    "a link to no config": (
        lambda folder: move_away(folder / "config.json"),
        ["config.json: this is a link to ", "blob, and no file is there", "what its links point to"],
    ),
    "a link to no tokenizer": (
        lambda folder: move_away(folder / "tokenizer.json"),
        ["tokenizer.json: this is a link to ", "blob, and no file is there", "what its links point to"],
    ),
    "truncated weights": (
        lambda folder: truncate(folder / "model.safetensors", 100_000),
        ["model.safetensors", "100,000 bytes where its header declares ", "download"],
    ),
    "truncated header": (
        lambda folder: truncate(folder / "model.safetensors", 1000),
        ["model.safetensors", "truncated or damaged", "download"],
    ),
    "a header nested without end": (
        lambda folder: write_header(folder / "model.safetensors", b'{"a":' * 100_000),
        ["model.safetensors", "truncated or damaged", "download"],
    ),
    "a header of other types": (
        lambda folder: write_header(folder / "model.safetensors", b'{"a": {"data_offsets": [0, "x"]}, "b": [1]}'),
        ["model.safetensors", "truncated or damaged", "download"],
    ),
    "a header longer than a header may be": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}"),
        ["model.safetensors", "truncated or damaged", "download"],
    ),
    "empty weights": (
        lambda folder: truncate(folder / "model.safetensors", 0),
        ["model.safetensors", "truncated or damaged", "download"],
    ),
    "a pointer of git-lfs": (
        lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        ["model.safetensors", "truncated or damaged", "download"],
    ),
}

INDEXED = {
    "index is not JSON": (
        lambda folder: (folder / INDEX).write_text("nothing"),
        [INDEX, "is not JSON (", "download"],
    ),
    "index without a map": (
        lambda folder: edit_index(folder, lambda index: index.pop("weight_map")),
        [INDEX, "has no 'weight_map'", "download"],
    ),
    "index whose map is a list": (
        lambda folder: edit_index(folder, lambda index: index.update(weight_map=["a"])),
        [INDEX, "'weight_map' is a list, not an object", "download"],
    ),
    "index of a file elsewhere": (
        lambda folder: edit_index(folder, lambda index: index["weight_map"].update(new="../model.safetensors")),
        [INDEX, "gives 'new' no name of a safetensors file in this folder", "download"],
    ),
    "index with a number for a file": (
        lambda folder: edit_index(folder, lambda index: index["weight_map"].update(new=7)),
        [INDEX, "gives 'new' no name of a safetensors file in this folder", "download"],
    ),
    "files that are not there": (
        lambda folder: [file.unlink() for file in sorted(folder.glob("model-*"))[:2]],
        [INDEX, "model-00001-of-00003.safetensors, model-00002-of-00003.safetensors", "download"],
    ),
    "a link to no file": (
        lambda folder: move_away(folder / "model-00002-of-00003.safetensors"),
        ["model-00002-of-00003.safetensors: this is a link to ", "what its links point to"],
    ),
    "a link to no index": (
        lambda folder: move_away(folder / INDEX),
        [f"{INDEX}: this is a link to ", "what its links point to"],
    ),
    "tensors that are not there": (
        lambda folder: edit_index(
            folder,
            lambda index: index["weight_map"].update(
                {name: "model-00001-of-00003.safetensors" for name in ("new.weight", "other.weight")}
            ),
        ),
        [
            INDEX,
            "new.weight (model-00001-of-00003.safetensors), other.weight (model-00001-of-00003.safetensors)",
            "download",
        ],
    ),
    "a truncated file": (
        lambda folder: truncate(folder / "model-00002-of-00003.safetensors", 50_000),
        ["model-00002-of-00003.safetensors", "50,000 bytes", "download"],
    ),
}


@pytest.mark.parametrize(("spoil", "parts"), WHOLE.values(), ids=WHOLE.keys())
def test_a_bad_folder_is_reported_in_one_line(tmp_path, spoil, parts):
    write_folder(tmp_path)
    spoil(tmp_path)
    line = reported(open_folder, str(tmp_path))
    assert all(part in line for part in [str(tmp_path), *parts]), line


@pytest.mark.parametrize(("spoil", "parts"), INDEXED.values(), ids=INDEXED.keys())
def test_a_bad_index_is_reported_in_one_line(tmp_path, spoil, parts):
    write_folder(tmp_path, max_shard_bytes=150_000)
    spoil(tmp_path)
    line = reported(open_folder, str(tmp_path))
    assert all(part in line for part in [str(tmp_path), *parts]), line


def test_weights_that_may_not_be_read(tmp_path, monkeypatch):
    """As for a user other than root: Python's open reports the permissions, safetensors an absent file."""
    write_folder(tmp_path)
    weights, opened = tmp_path / "model.safetensors", Path.open

    def refuse(file: Path, *arguments, **options):
        if file == weights:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return opened(file, *arguments, **options)

    def absent(file, framework):
        raise FileNotFoundError(f"No such file or directory: {file}")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("mmkp_jax.hf.tensors.safe_open", absent)
    line = reported(open_folder, str(tmp_path))
    assert line.startswith(f"{weights}: the file cannot be read (PermissionError: ") and "permissions" in line


@pytest.mark.parametrize("path", ["/no/such/folder", "nosuchfolder", "./no/such", "a/b/c", "../up"])
def test_a_path_that_is_no_folder(path):
    line = reported(open_folder, path)
    assert line.startswith(f"{path}: there is no such folder") and "hub id" in line


def test_a_path_that_is_a_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "a file, not a folder" in reported(open_folder, str(tmp_path / "config.json"))


@pytest.mark.parametrize("hub_id", ["nobody/no-such-model", "no--body/..x"])
def test_a_hub_that_cannot_be_reached(monkeypatch, tmp_path, hub_id):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = reported(open_folder, hub_id)
    assert line.startswith(f"{hub_id}: there is no such folder, and the hub does not provide it")
    assert "network" in line and "local folder" in line


def test_a_hub_id_fetches_no_pickle(monkeypatch, tmp_path):
    write_folder(tmp_path)
    asked = {}

    def fetch(hub_id, allow_patterns):
        asked[hub_id] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert open_folder("Qwen/Qwen2.5-VL-3B-Instruct").path == tmp_path
    assert asked == {
        "Qwen/Qwen2.5-VL-3B-Instruct": ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.py", "README.md", "LICENSE*"]
    }


def test_a_damaged_tokenizer(tmp_path):
    write_folder(tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    folder = open_folder(str(tmp_path))
    for content in ({"version": "1.0"}, whole | {"model": 7}, whole | {"added_tokens": [{"id": "x"}]}):
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        line = reported(load_tokenizer, folder)
        assert str(tmp_path) in line and "cannot read the tokenizer" in line and "base checkpoint" in line
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for content in ('{"a":' * 100_000, json.dumps(settings | {"model_max_length": []})):
        (tmp_path / "tokenizer_config.json").write_text(content)
        assert "cannot read the tokenizer" in reported(load_tokenizer, folder)


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{% for %}", "{{ messages.x.y }}", "{{ raise_exception('no') }}"])
def test_a_chat_template_that_cannot_be_rendered(tmp_path, template):
    write_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(Folder(tmp_path, hf_config_dict(tiny_config()), {}))
    line = reported(lambda: read_template(tokenizer, image_token=tiny_config().image_token_id))
    assert f"the tokenizer of {tmp_path}: its chat template cannot be rendered (" in line


def test_a_tokenizer_with_more_tokens_than_the_model(tmp_path):
    write_folder(tmp_path)
    smaller = hf_config_dict(tiny_config(vocab_size=313))
    line = reported(load_tokenizer, Folder(tmp_path, smaller, {}))
    assert "the tokenizer has a token 313, and vocab_size is 313" in line


def load(path: Path) -> None:
    folder = open_folder(str(path))
    load_params(folder, define(hf_config_dict(tiny_config(tie_embeddings=False))).shapes())


def test_all_wrong_tensors_are_reported_at_once(tmp_path):
    write_folder(tmp_path, tie_embeddings=False)

    def spoil(tensors):
        for layer in range(3):
            del tensors[f"model.layers.{layer}.self_attn.q_proj.bias"]
        del tensors["model.norm.weight"]
        tensors["visual.merger.ln_q.weight"] = np.ones(31, np.float32)
        for layer in (0, 2):
            tensors[f"visual.blocks.{layer}.attn.proj.weight"] = np.ones((32, 16), np.float32)
        tensors["model.layers.1.mlp.up_proj.weight"] = np.ones((96, 64), np.int8)
        tensors["model.layers.1.mlp.up_proj.scales"] = np.ones(96, np.float32)
        tensors["model.language_model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"]

    edit_weights(tmp_path, spoil)
    line = reported(load, tmp_path)
    for part in (
        str(tmp_path),
        "missing: ",
        "model.norm.weight",
        "model.layers.{0..2}.self_attn.q_proj.bias",
        "unexpected: ",
        "model.layers.1.mlp.up_proj.scales",
        "of shape [31] instead of [32]: visual.merger.ln_q.weight",
        "of shape [32, 16] instead of [32, 32]: visual.blocks.{0,2}.attn.proj.weight",
        "of dtype I8, which is no float of 16 or 32 bits: model.layers.1.mlp.up_proj.weight",
        "not quantised",
    ):
        assert part in line, (part, line)
    unexpected = line.partition("unexpected: ")[2].partition(";")[0]
    assert unexpected.count("embed_tokens") == 1  # the second of the two


def test_a_head_is_missing_where_the_model_has_one(tmp_path):
    write_folder(tmp_path, tie_embeddings=True)
    line = reported(load, tmp_path)
    assert "missing: lm_head.weight;" in line and line.endswith("set tie_word_embeddings to true in config.json")


def with_head(folder: Path, change: float = 0) -> None:
    def add(tensors):
        head = tensors["model.embed_tokens.weight"].astype(np.float32)
        head[-1, -1] += change
        tensors["lm_head.weight"] = head.astype(jnp.bfloat16)

    edit_weights(folder, add)


def test_a_tied_head_unlike_the_embedding_is_refused(tmp_path, monkeypatch):
    """transformers uses it, vLLM does not: as the files are, they are two models."""
    monkeypatch.setattr("mmkp_jax.hf.tensors.BLOCK_BYTES", 1000)  # the last block differs
    write_folder(tmp_path, tie_embeddings=True)
    with_head(tmp_path)
    open_folder(str(tmp_path))
    with_head(tmp_path, change=1)
    line = reported(open_folder, str(tmp_path))
    assert f"{tmp_path}/model.safetensors: config.json says tie_word_embeddings, and lm_head.weight is not " in line
    assert "set tie_word_embeddings to false" in line
    untied = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(untied))
    assert "lm_head" in define(open_folder(str(tmp_path)).config).shapes()


def test_a_tied_head_in_another_dtype_is_compared_by_its_numbers(tmp_path):
    write_folder(tmp_path, tie_embeddings=True)
    edit_weights(
        tmp_path,
        lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].astype(np.float32)}),
    )
    open_folder(str(tmp_path))


def test_an_unknown_architecture(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_v1"}')
    line = reported(load, tmp_path)
    assert f"{tmp_path}/config.json" in line and "did you mean 'qwen2_5_vl'?" in line


def test_weights_are_never_overwritten(tmp_path):
    write_folder(tmp_path)
    assert "already holds model.safetensors" in reported(write_folder, tmp_path)
