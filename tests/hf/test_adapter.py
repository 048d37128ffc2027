"""Adapters against PEFT, in float32: ours there, PEFT's here, merged; and what is refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmkp_jax.errors import InputError
from mmkp_jax.hf.adapter import ADAPTER_WEIGHTS, adapter_tensors, load_adapter, write_adapter
from mmkp_jax.hf.export import export_folder
from mmkp_jax.hf.folder import ADAPTER, open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.prompt_limits import PromptLimits
from mmkp_jax.hf.verify import adapted
from mmkp_jax.inference.load_model import load_folder
from mmkp_jax.models.definition import define_from, flatten
from mmkp_jax.models.freezing import split_trained
from mmkp_jax.models.lora import Lora
from mmkp_jax.models.sharding import make_mesh
from tests.support.lora import with_adapters
from tests.support.needs_torch import needs_torch
from tests.support.parity import BOUND, our_logits, relative_error, sequence, their_logits
from tests.support.run_on_disk import write_base
from tests.support.tiny import hf_model, tiny_config
from tests.support.trees import forest_of, random_tree

CONFIG = tiny_config()
TREE = random_tree(0, CONFIG, grids=[(4, 6)])
FOREST = forest_of([[TREE]], CONFIG)
EVERYWHERE = Lora(4, 8.0, targets=("qkv", "proj", "q_proj", r"model\.language_model\..*\.down_proj"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "model"
    return open_folder(str(write_base(path, CONFIG, dtype="float32")))


def written(folder, lora, path, seed=0):
    """An adapter with random numbers in `path`, and its model."""
    definition, params = with_adapters(folder, lora, seed=seed)
    trained, frozen = split_trained(definition, params, ())
    path.mkdir()
    write_adapter(adapter_tensors(definition, trained), definition, str(folder.path), path)
    return definition, params, trained, frozen


def of_sft(logits):
    return logits[0, sequence(FOREST, 0, 1, 1)]


def one_device():
    return make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])


@pytest.mark.parametrize(
    "lora",
    [
        pytest.param(Lora(4, 8.0, rs=True, projector="full"), id="projector in full, rsLoRA"),
        pytest.param(Lora(4, 8.0), id="default", marks=pytest.mark.nightly),
        pytest.param(EVERYWHERE, id="tower too", marks=pytest.mark.nightly),
        pytest.param(Lora(3, 5.0, targets=("v_proj",), projector="frozen"), id="one", marks=pytest.mark.nightly),
    ],
)
def test_peft_gives_our_logits_on_our_adapter_and_so_does_the_merged_folder(folder, tmp_path, lora):
    needs_torch()
    definition, params, trained, frozen = written(folder, lora, tmp_path / "adapter")
    if lora.projector == "full":  # away from the base's, so that it matters
        trained["visual"]["merger"]["up"]["bias"] = trained["visual"]["merger"]["up"]["bias"] + 0.5
        params["visual"]["merger"]["up"]["bias"] = trained["visual"]["merger"]["up"]["bias"]
        write_adapter(adapter_tensors(definition, trained), definition, str(folder.path), tmp_path / "adapter")
    ours = our_logits(definition, params, FOREST)
    base = our_logits(define_from(definition.family, CONFIG), load_params(folder, definition.base_shapes()), FOREST)
    assert relative_error(ours, base) > 0.05
    theirs = their_logits(adapted(hf_model(folder.path), tmp_path / "adapter"), TREE, TREE.sft, CONFIG)
    assert relative_error(of_sft(ours), theirs) <= BOUND

    limits = {"images": {"min_pixels": 3136, "max_pixels": 12544}, "limits": PromptLimits(96, 24), "card": "#"}
    export_folder(trained, frozen, folder, tmp_path / "merged", definition=definition, **limits)
    merged = open_folder(str(tmp_path / "merged"))
    plain = define_from(definition.family, CONFIG)
    assert relative_error(our_logits(plain, load_params(merged, plain.shapes()), FOREST), ours) <= BOUND

    read, again = load_folder(folder, str(tmp_path / "adapter"), one_device(), jnp.float32)
    assert set(read.adapters) == set(definition.adapters) and read.lora.scale == lora.scale
    before, after = flatten(params), flatten(again)
    assert before.keys() == after.keys() and all(np.array_equal(before[path], after[path]) for path in before)


@pytest.mark.parametrize(
    "made",
    [
        {"target_modules": ["q_proj", "v_proj", "up_proj"]},
        pytest.param({"target_modules": "all-linear", "use_rslora": True}, marks=pytest.mark.nightly),
        pytest.param({"target_modules": ["o_proj"], "modules_to_save": ["merger"]}, marks=pytest.mark.nightly),
    ],
    ids=["names", "all-linear", "modules to save"],
)
def test_we_give_pefts_logits_on_an_adapter_that_peft_made(folder, tmp_path, made):
    torch = needs_torch()
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(hf_model(folder.path), LoraConfig(r=3, lora_alpha=7, task_type="CAUSAL_LM", **made))
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                each.add_(0.1 * torch.randn_like(each))
    model.save_pretrained(tmp_path / "adapter")
    theirs = their_logits(model.get_base_model().eval(), TREE, TREE.sft, CONFIG)
    definition, params = load_folder(folder, str(tmp_path / "adapter"), one_device(), jnp.float32)
    assert relative_error(of_sft(our_logits(definition, params, FOREST)), theirs) <= BOUND


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter") / "adapter"
    definition, _, trained, _ = written(folder, Lora(4, 8.0), path)
    return definition, trained, path


def test_the_config_is_short_and_its_pattern_is_exact(adapter):
    content = json.loads((adapter[2] / ADAPTER).read_text())
    assert len(content) == 20 and content["modules_to_save"] is None and content["task_type"] == "CAUSAL_LM"
    assert r"model\.language_model\.layers\.\d+\.self_attn\.q_proj" in content["target_modules"].split("|")
    tensors = load_file(adapter[2] / ADAPTER_WEIGHTS)
    name = "base_model.model.model.language_model.layers.2.mlp.down_proj.lora_A.weight"
    assert tensors[name].shape == (4, CONFIG.intermediate_size) and tensors[name].dtype == np.float32
    assert len(tensors) == 2 * (7 * CONFIG.num_layers + 2)


def changed(path, **fields):
    content = json.loads((path / ADAPTER).read_text()) | fields
    (path / ADAPTER).write_text(json.dumps(content))


def renamed(path, old, new):
    tensors = {name.replace(old, new): array for name, array in load_file(path / ADAPTER_WEIGHTS).items()}
    save_file(tensors, path / ADAPTER_WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda path: changed(path, r=8),
            r"its r is 8, not 4 as in the config; give --config.lora_rank=8, or another adapter",
        ),
        (lambda path: changed(path, lora_alpha=4), r"its lora_alpha is 4.0, not 8.0 .*give --config.lora_alpha=4, or"),
        (
            lambda path: changed(path, use_rslora=True),
            r"its use_rslora is True, not False .*give --config.lora_rs=true, or",
        ),
        (lambda path: changed(path, use_dora=True), r"'use_dora' is true, not False, which is all that is implemented"),
        (
            lambda path: changed(path, init_lora_weights="pissa"),
            r"'init_lora_weights' is \"pissa\", not true, false or",
        ),
        (lambda path: changed(path, peft_type="IA3"), r"'peft_type' is \"IA3\", not LORA"),
        (
            lambda path: renamed(path, "model.model.language_model.", "model.model."),
            r"missing: .*unexpected: .*config.lora_targets and config.lora_projector",
        ),
        (lambda path: renamed(path, "layers.2.", "layers.3."), r"layers.2.mlp.*unexpected: .*layers.3.mlp"),
        (lambda path: (path / ADAPTER_WEIGHTS).unlink(), "the folder has no adapter_config.json with adapter_model"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_in_one_line(adapter, tmp_path, harm, message):
    definition, trained, path = adapter
    harmed = shutil.copytree(path, tmp_path / "adapter")
    harm(harmed)
    structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), trained)
    with pytest.raises(InputError, match=message) as raised:
        load_adapter(definition, str(harmed), structs)
    assert "\n" not in str(raised.value) and str(harmed) in str(raised.value)


def test_an_adapter_of_other_modules_is_refused_by_the_model(folder, adapter, tmp_path):
    harmed = shutil.copytree(adapter[2], tmp_path / "adapter")
    renamed(harmed, "self_attn.q_proj", "self_attn.query")
    with pytest.raises(InputError, match=r"unexpected: .*query"):
        load_folder(folder, str(harmed), one_device(), jnp.float32)


def test_an_adapter_is_not_a_model_and_the_line_says_what_to_do(folder, adapter):
    with pytest.raises(InputError) as raised:
        open_folder(str(adapter[2]))
    assert str(raised.value) == (
        f"{adapter[2]}: this is not a model, but an adapter (PEFT) of {folder.path}; give that as the model, and this "
        "folder as predict --adapter, or as config.lora_adapter to train on"
    )
