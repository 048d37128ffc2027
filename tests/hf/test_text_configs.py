"""Every field of a text model's `config.json`, changed: our logits are transformers' of the same folder, or refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from tests.support import zoo_llama, zoo_qwen2
from tests.support.needs_torch import needs_torch
from tests.support.parity import BOUND, our_logits, relative_error
from tests.support.zoo import ZOO, TinyModel, forest_of, random_params, random_tree, write_folder

QWEN2, LLAMA = zoo_qwen2.config(num_hidden_layers=1), zoo_llama.config(num_hidden_layers=1)
SCALING = zoo_llama.scaling
READ, IGNORED, REFUSED = "other numbers", "the same numbers", "refused"

CASES = {
    "qwen2: rope_theta": (QWEN2, {"rope_theta": 100.0}, READ),
    "qwen2: rope_parameters": (QWEN2, {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}, READ),
    "qwen2: rope_parameters and a theta outside": (
        QWEN2,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}, "rope_theta": 50.0},
        READ,
    ),
    "qwen2: no rope_theta": (QWEN2, {"rope_theta": None}, READ),
    "qwen2: yarn": (QWEN2, {"rope_scaling": {"type": "yarn", "factor": 4.0}}, REFUSED),
    "qwen2: part of a head rotated": (QWEN2, {"partial_rotary_factor": 0.5}, REFUSED),
    "qwen2: rms_norm_eps": (QWEN2, {"rms_norm_eps": 0.1}, READ),
    "qwen2: heads": (QWEN2, {"num_attention_heads": 8, "num_key_value_heads": 4}, READ),
    "qwen2: key-value heads": (QWEN2, {"num_key_value_heads": 4}, REFUSED),  # by the tensors' shapes
    "qwen2: no key-value heads": (QWEN2, {"num_key_value_heads": None}, REFUSED),
    "qwen2: head_dim": (QWEN2, {"head_dim": 8}, REFUSED),  # by the tensors' shapes
    "qwen2: hidden_act": (QWEN2, {"hidden_act": "gelu"}, REFUSED),
    "qwen2: sliding windows": (
        QWEN2,
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
        REFUSED,
    ),
    "qwen2: a window that is not used": (QWEN2, {"sliding_window": 4, "max_window_layers": 0}, IGNORED),
    "qwen2: layer_types": (QWEN2, {"layer_types": ["sliding_attention"], "sliding_window": 4}, REFUSED),
    "qwen2: use_mrope": (QWEN2, {"use_mrope": False}, IGNORED),  # in the base models' files
    "qwen2: not tied, without a head": (QWEN2, {"tie_word_embeddings": False}, REFUSED),
    "qwen2: AWQ": (QWEN2, {"quantization_config": {"quant_method": "awq"}}, REFUSED),
    "llama: factor": (LLAMA, {"rope_scaling": SCALING(8.0)}, READ),
    "llama: positions": (LLAMA, {"rope_scaling": SCALING(32.0, 64)}, READ),
    "llama: positions outside": (LLAMA, {"original_max_position_embeddings": 64}, READ),
    "llama: no scaling": (LLAMA, {"rope_scaling": None}, READ),
    "llama: as transformers 5 writes it": (
        LLAMA,
        {"rope_scaling": None, "rope_theta": None, "rope_parameters": {**SCALING(32.0), "rope_theta": 5e5}},
        IGNORED,
    ),
    "llama: rope_theta": (LLAMA, {"rope_theta": 1e4}, READ),
    "llama: linear scaling": (LLAMA, {"rope_scaling": {"type": "linear", "factor": 2.0}}, REFUSED),
    "llama: half of the scaling": (LLAMA, {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, REFUSED),
    "llama: high below low": (LLAMA, {"rope_scaling": SCALING(8.0) | {"high_freq_factor": 0.5}}, REFUSED),
    "llama: no head_dim": (LLAMA, {"head_dim": None}, REFUSED),  # which then is another, by the tensors' shapes
    "llama: attention_bias": (LLAMA, {"attention_bias": True}, REFUSED),
    "llama: mlp_bias": (LLAMA, {"mlp_bias": True}, REFUSED),
    "llama: rms_norm_eps": (LLAMA, {"rms_norm_eps": 0.1}, READ),
    "llama: pretraining_tp": (LLAMA, {"pretraining_tp": 2}, IGNORED),
    "llama: max_position_embeddings": (LLAMA, {"max_position_embeddings": 10_000}, IGNORED),
    "llama: GPTQ": (LLAMA, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, REFUSED),
}


BY_DEFAULT = ("qwen2: rope_theta", "llama: factor", "llama: as transformers 5 writes it")
"""Cases that are computed in the default tier, next to all that are refused."""

EACH = [
    pytest.param(*case, id=name, marks=() if case[2] == REFUSED or name in BY_DEFAULT else pytest.mark.nightly)
    for name, case in CASES.items()
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of random weights of each family."""
    made = {}
    for config in (QWEN2, LLAMA):
        name = config["model_type"]
        folder = tmp_path_factory.mktemp(name)
        model = TinyModel(name, "", config, define(config), random_params(define(config), ZOO[name]))
        write_folder(folder, model)
        made[name] = folder
    return made


def logits_in(folder, text: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Ours and transformers' logits of a text, of a folder as it is."""
    torch = needs_torch()
    from transformers import AutoModelForCausalLM

    opened = open_folder(str(folder))
    definition = define(opened.config)
    name = opened.config["model_type"]
    model = TinyModel(name, "", opened.config, definition, load_params(opened, definition.shapes()))
    tree = random_tree(0, model, text=text, cot=0)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.from_numpy(np.concatenate([tree.prompt, tree.sft[:-1]]).astype(np.int64))[None]
    with torch.no_grad():
        return our_logits(definition, model.params, forest_of([[tree]], model))[0], theirs(ids).logits[0].numpy()


@pytest.mark.parametrize(("published", "change", "expected"), EACH)
def test_a_changed_field_is_read_as_transformers_does_or_refused(folders, published, change, expected):
    folder = folders[published["model_type"]]
    changed = {name: value for name, value in (published | change).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(changed))
    if expected == REFUSED:
        with pytest.raises(InputError) as caught:
            opened = open_folder(str(folder))
            load_params(opened, define(opened.config).shapes())
        assert "\n" not in str(caught.value)
        return
    ours, theirs = logits_in(folder)
    assert relative_error(ours, theirs) <= BOUND
    assert (define(changed).config == define(published).config) == (expected == IGNORED)
    if expected == READ:  # the field counts: its old value gives other numbers
        (folder / "config.json").write_text(json.dumps(published))
        assert relative_error(logits_in(folder)[0], theirs) > 10 * BOUND


def test_a_head_in_the_files_beside_a_config_that_says_tied_is_compared(folders, tmp_path):
    """The same numbers are one, as some tools write them; others are refused with one line."""
    folder = folders["llama"]
    (folder / "config.json").write_text(json.dumps(LLAMA))
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    head = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": head.copy()}, tmp_path / "model.safetensors")
    opened = open_folder(str(tmp_path))
    assert "lm_head" not in load_params(opened, define(opened.config).shapes())
    save_file(tensors | {"lm_head.weight": head + 1}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"says tie_word_embeddings, and lm_head.weight is not model.embed_tokens"):
        open_folder(str(tmp_path))


@pytest.mark.parametrize(
    "published, change, line",
    [
        (LLAMA, {"rope_scaling": {"rope_type": "yarn"}}, r'"yarn", not \'default\' or \'llama3\', which is all'),
        (QWEN2, {"use_sliding_window": True}, "; take a model without sliding windows, such as Qwen/"),
        (QWEN2, {"layer_types": ["sliding_attention"]}, "; take a model without sliding windows, such as Qwen/"),
    ],
)
def test_a_refusal_names_all_that_is_implemented_and_a_model_that_is(published, change, line):
    with pytest.raises(InputError, match=line):
        define(published | change)
