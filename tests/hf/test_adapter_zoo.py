"""Adapters of every family against PEFT, in float32: ours there, and PEFT's on all linears here."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.hf.adapter import adapter_tensors, write_adapter
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.verify import adapted
from mmkp_jax.inference.load_model import load_folder
from mmkp_jax.models.freezing import split_trained
from mmkp_jax.models.lora import Lora
from mmkp_jax.models.sharding import make_mesh
from tests.support.lora import with_adapters
from tests.support.needs_torch import needs_torch
from tests.support.parity import BOUND, our_logits, relative_error, sequence
from tests.support.zoo import (
    ZOO,
    all_geometries,
    forest_of,
    model_of,
    random_tree,
    reference_of,
    their_inputs,
    write_folder,
)

FIRST = next(iter(ZOO["mllama"].geometries))

CASES = [
    pytest.param(*case.values, id=case.id, marks=() if case.values == ("mllama", FIRST) else pytest.mark.nightly)
    for case in all_geometries()
]
"""The default tier has the same of Qwen2.5-VL, in `test_adapter.py`."""


def logits_of(definition, params, model, tree):
    """Ours for the prompt and the SFT target."""
    forest = forest_of([[tree]], model)
    return our_logits(definition, params, forest)[0, sequence(forest, 0, 1, 1)]


def their_logits(reference, model, tree):
    with needs_torch().no_grad():
        tokens = np.concatenate([tree.prompt, tree.sft[:-1]])
        return reference(**their_inputs(model, tree, tokens)).logits[0].float().numpy()


@pytest.mark.parametrize(("name", "geometry"), CASES)
def test_adapters_are_pefts_in_every_family(tmp_path, name, geometry):
    torch = needs_torch()
    from peft import LoraConfig, get_peft_model

    model = model_of(name, geometry)
    folder, tree = open_folder(str(write_folder(tmp_path / "model", model))), random_tree(0, model)
    definition, params = with_adapters(folder, Lora(4, 8.0))
    trained, _ = split_trained(definition, params, ())
    (tmp_path / "ours").mkdir()
    write_adapter(adapter_tensors(definition, trained), definition, str(folder.path), tmp_path / "ours")
    reference = adapted(copy.deepcopy(reference_of(name, geometry)), tmp_path / "ours")
    assert relative_error(logits_of(definition, params, model, tree), their_logits(reference, model, tree)) <= BOUND

    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=7, task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    peft = get_peft_model(copy.deepcopy(reference_of(name, geometry)), config)
    peft.save_pretrained(tmp_path / "theirs")
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    definition, params = load_folder(folder, str(tmp_path / "theirs"), mesh, jnp.float32)
    reference = peft.get_base_model().eval()
    assert relative_error(logits_of(definition, params, model, tree), their_logits(reference, model, tree)) <= BOUND
