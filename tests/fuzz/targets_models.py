"""Readers of model folders and of what a run left in its work directory."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import load_tokenizer, open_folder
from mmkp_jax.hf.preprocessor import read_settings
from tests.fuzz.harness import Target
from tests.support.tiny import hf_config_dict, tiny_config, write_tokenizer

PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12_845_056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
}
GENERATION = {"bos_token_id": 300, "eos_token_id": [302, 300], "do_sample": True, "temperature": 1e-6}


def _folder(root: Path) -> Path:
    folder = root / "model"
    if not folder.exists():
        folder.mkdir()
        write_tokenizer(folder)
        (folder / "config.json").write_bytes(_configs(root)[0])
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
        (folder / "generation_config.json").write_text(json.dumps(GENERATION))
        tensors = {"model.embed_tokens.weight": np.zeros((320, 64), np.float16), "visual.x": np.ones(2, np.float32)}
        (folder / "model.safetensors").write_bytes(save(tensors))
    return folder


def _configs(_: Path) -> list[bytes]:
    return [json.dumps(hf_config_dict(tiny_config(), nested)).encode() for nested in (False, True)]


def _open(folder: Path) -> None:
    opened = open_folder(str(folder))
    definition = define(opened.config, str(folder / "config.json"))
    read_settings(folder, definition.family, definition.config)


def _file(name: str, *, tokenizer: bool = False):
    def corpus(root: Path) -> list[bytes]:
        whole = (_folder(root) / name).read_bytes()
        return _configs(root) if name == "config.json" else [whole]

    def feed(data: bytes, root: Path) -> None:
        (_folder(root) / name).write_bytes(data)
        _open(root / "model")
        if tokenizer:
            load_tokenizer(open_folder(str(root / "model")))

    return corpus, feed


def _index(root: Path) -> list[bytes]:
    return [json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "a.safetensors"}}).encode()]


def _read_index(data: bytes, root: Path) -> None:
    folder = _folder(root)
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / "a.safetensors").write_bytes(save({"lm_head.weight": np.ones(2, np.float32)}))
    (folder / "model.safetensors.index.json").write_bytes(data)
    _open(folder)


TARGETS = [
    Target("model: config.json", *_file("config.json"), share=0.5),
    Target("model: preprocessor_config.json", *_file("preprocessor_config.json"), share=0.5),
    Target("model: generation_config.json", *_file("generation_config.json"), share=0.2),
    Target("model: safetensors", *_file("model.safetensors"), share=0.4),
    Target("model: index of tensors", _index, _read_index, share=0.4),
    Target("model: tokenizer.json", *_file("tokenizer.json", tokenizer=True), share=0.02),
    Target("model: tokenizer_config.json", *_file("tokenizer_config.json", tokenizer=True), share=0.02),
]
