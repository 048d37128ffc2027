"""Adapters of InternVL3's original layout: PEFT on modules of that layout, and `--verify`, which has transformers'."""

import copy
import io
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmkp_jax.data.forest import Tree
from mmkp_jax.hf.adapter import adapter_tensors, write_adapter
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.prompt_limits import PROMPT_LIMITS, PromptLimits
from mmkp_jax.hf.verify import our_logits, reference_outputs
from mmkp_jax.inference.load_model import load_folder
from mmkp_jax.models.freezing import split_trained
from mmkp_jax.models.lora import Lora
from mmkp_jax.models.sharding import make_mesh
from tests.support.lora import with_adapters
from tests.support.needs_torch import needs_torch
from tests.support.parity import BOUND, relative_error
from tests.support.zoo import model_of, random_tree, reference_of, their_inputs, write_folder

NAME = "internvl_chat"
MODEL = model_of(NAME)
LORAS = [
    pytest.param(Lora(4, 8.0, targets=("attn.qkv", "attn.proj", "fc1", "q_proj")), id="tower too"),
    pytest.param(Lora(4, 8.0, rs=True), id="decoder and projector", marks=pytest.mark.nightly),
    pytest.param(Lora(4, 8.0, projector="full"), id="projector in full", marks=pytest.mark.nightly),
]


class Written(NamedTuple):
    """An adapter with random numbers."""

    path: Path
    tree: Tree
    image: bytes
    ours: np.ndarray
    """Our logits that predict the tree's SFT target."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    needs_torch()
    return open_folder(str(write_folder(tmp_path_factory.mktemp("chat") / "model", MODEL)))


@pytest.fixture(scope="module", params=LORAS)
def written(request, folder, tmp_path_factory):
    lora, path = request.param, tmp_path_factory.mktemp("adapter")
    definition, params = with_adapters(folder, lora)
    if lora.projector == "full":  # away from the base's, so that it matters
        params["projector"]["up"]["bias"] = params["projector"]["up"]["bias"] + 0.5
    write_adapter(adapter_tensors(definition, split_trained(definition, params, ())[0]), definition, "base", path)
    tree, image = post()
    return Written(path, tree, image, of_target(definition, params, tree))


def post(**settings) -> tuple[Tree, bytes]:
    """A prompt with an image of three tiles, or as the settings of images say, and the image's file."""
    image, file = Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 112, 3), np.uint8)), io.BytesIO()
    image.save(file, "png")
    plain = random_tree(0, MODEL, images=[], cot=0)
    processor = MODEL.definition.family.processor(MODEL.definition.config, settings)
    layout = processor.layout(56, 112)
    prompt = np.concatenate([plain.prompt[:3], processor.placeholder(layout), plain.prompt[3:]])
    return Tree(prompt, plain.sft, plain.cot, (layout,), (processor.pixels(image, layout),)), file.getvalue()


def of_target(definition, params, tree):
    """Our logits that predict the SFT target's tokens."""
    (logits,) = our_logits(definition, params, [tree])
    return logits


def original():
    """The original layout's modules."""
    needs_torch()
    from tests.support.internvl_chat_modules import ChatModel

    return ChatModel(copy.deepcopy(reference_of(NAME))).eval()


def theirs_of(model, tree):
    with needs_torch().no_grad():
        inputs = their_inputs(MODEL, tree, np.concatenate([tree.prompt, tree.sft[:-1]]))
        return model(inputs["input_ids"], inputs["pixel_values"])[0, -len(tree.sft) :].numpy()


def test_peft_loads_our_adapter_into_the_original_modules(written):
    """As the card has it, by `PeftModel`; no tensor is missing or unknown, and the logits are ours."""
    needs_torch()
    from peft import PeftModel, load_peft_weights

    model = PeftModel.from_pretrained(original(), str(written.path)).eval()
    assert relative_error(written.ours, theirs_of(model, written.tree)) <= BOUND
    assert relative_error(written.ours, theirs_of(original(), written.tree)) > 0.01
    there = {name.replace(".default", "").replace("modules_to_save.", "") for name in model.state_dict()}
    assert load_peft_weights(str(written.path), device="cpu").keys() <= there


def test_verify_gives_peft_the_adapter_under_transformers_own_names(written, folder):
    """Which loads no folder of the original layout without the folder's code."""
    needs_torch()
    family, path = MODEL.definition.family, folder.path
    (found,) = reference_outputs(family, path, [written.tree], [written.image], 3, adapter=written.path)
    assert relative_error(written.ours, found.logits_MV) <= BOUND


def test_verify_reads_images_as_the_adapters_run_did(written, folder, tmp_path):
    needs_torch()
    adapter = shutil.copytree(written.path, tmp_path / "adapter")
    limits = PromptLimits(96, 24, images={"max_tiles": 1})
    (adapter / PROMPT_LIMITS).write_text(json.dumps(limits.content()))
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    definition, params = load_folder(folder, str(adapter), mesh, jnp.float32)
    tree, image = post(max_tiles=1)
    assert len(tree.prompt) < len(written.tree.prompt)
    (found,) = reference_outputs(MODEL.definition.family, folder.path, [tree], [image], 3, adapter=adapter)
    assert relative_error(of_target(definition, params, tree), found.logits_MV) <= BOUND


@pytest.mark.nightly
def test_we_read_an_adapter_that_peft_made_of_the_original_modules(folder, tmp_path):
    torch = needs_torch()
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    targets = r".*\.(qkv|fc2|o_proj|up_proj)|mlp1\.[13]"
    peft = get_peft_model(original(), LoraConfig(r=3, lora_alpha=7, target_modules=targets, init_lora_weights=False))
    peft.save_pretrained(tmp_path / "theirs")
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    definition, params = load_folder(folder, str(tmp_path / "theirs"), mesh, jnp.float32)
    tree, _ = post()
    assert relative_error(of_target(definition, params, tree), theirs_of(peft.eval(), tree)) <= BOUND
