"""An adapter's folder: the image settings of its run, in our commands and in its card's code, which loads the base."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from configs import dyncot
from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import family_of
from mmkp_jax.hf.adapter import notes_on
from mmkp_jax.hf.card import Base, CardFacts, Environment, Licence, card_of
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.prompt_limits import PROMPT_LIMITS
from mmkp_jax.inference.export_run import RunStep, export
from mmkp_jax.inference.load_model import load_model
from mmkp_jax.inference.predictor import load_predictor
from mmkp_jax.models.lora import Lora
from tests.support.lora import with_adapters
from tests.support.needs_torch import needs_torch
from tests.support.run_on_disk import write_base
from tests.support.tiny import tiny_config
from tests.support.tiny_internvl import write_internvl

IMAGES = {
    "qwen2_5_vl": {"min_pixels": 3136, "max_pixels": 6272},
    "internvl": {"max_tiles": 2},
    "internvl_chat": {"max_tiles": 2},
}
"""Settings of images in training; those of the bases are others."""

RANK = 4


@pytest.fixture(scope="module", params=IMAGES)
def exported(request, tmp_path_factory):
    """The base and the adapter's folder of a step."""
    name, root = request.param, tmp_path_factory.mktemp("adapters")
    if name == "qwen2_5_vl":
        write_base(root / "base", tiny_config(num_layers=1), dtype="float32")
    else:
        write_internvl(root / "base", layout=name)
    base, config = open_folder(str(root / "base")), config_of(IMAGES[name], lora_rank=RANK, answer_tokens=6)
    config.model.path = str(base.path)
    definition, params = with_adapters(base, Lora(RANK, 8.0))
    facts = facts_of(base.family, config, str(base.path))
    export(RunStep(root, config, base, 1, params, definition), facts, root / "adapter", adapter=True)
    return name, base, root / "adapter"


def config_of(images, **fields):
    config = dyncot.get_config("model=pocket,tune=lora")
    config.data.images = images
    config.update(fields)
    return config


def facts_of(family, config, adapter_of) -> CardFacts:
    return CardFacts(
        repo="",
        family=family,
        base=Base("base", False, Licence("mit")),
        config=config.to_dict(),
        step=1,
        dtypes=["F32"],
        data=[],
        left_out=0,
        results=None,
        no_data="none",
        environment=Environment(),
        adapter_of=adapter_of,
    )


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_predict_takes_the_images_of_the_adapters_run_and_the_folder_is_no_model(exported):
    name, base, adapter = exported
    assert not (adapter / "config.json").exists() and not (adapter / "preprocessor_config.json").exists()
    assert json.loads((adapter / PROMPT_LIMITS).read_text())["images"] == IMAGES[name]
    assert load_model(str(base.path), adapter=str(adapter)).recipe.processor.settings == IMAGES[name]
    assert load_model(str(base.path)).recipe.processor.settings != IMAGES[name]


@pytest.mark.parametrize(
    ("images", "what"),
    [
        ([], "'images' is a list, not an object"),
        ({"max_tiles": "2"}, "'images.max_tiles' is \"2\", not a whole number from 1"),
        ({"tiles": 2}, "images of this model have no setting 'tiles'"),
    ],
)
def test_damaged_settings_of_images_are_one_line(exported, images, what):
    _, base, adapter = exported
    file = adapter / PROMPT_LIMITS
    kept = file.read_text()
    file.write_text(json.dumps(json.loads(kept) | {"images": images}))
    try:
        with pytest.raises(InputError) as caught:
            load_model(str(base.path), adapter=str(adapter))
    finally:
        file.write_text(kept)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)
    assert what in str(caught.value) or (base.family.name == "qwen2_5_vl" and "no setting" in str(caught.value))


def test_the_cards_code_reads_images_as_the_adapters_run_did(exported, tmp_path, monkeypatch, capsys):
    """transformers' code unchanged, where it needs none of the folder's, answers as we do; vLLM's gives the numbers."""
    name, base, adapter = exported
    transformers, vllm = snippets((adapter / "README.md").read_text(encoding="utf-8"))
    for code in (transformers, vllm):
        compile(code, "README.md", "exec")
    options = {names[0]: IMAGES[name][setting] for setting, names in base.family.preprocessor.settings.items()}
    assert f"mm_processor_kwargs={options}" in vllm and "enable_tower_connector_lora=True" in vllm
    if name == "internvl_chat":
        assert "tiles(read(image), model.config.force_image_size, 2)" in transformers
        return
    needs_torch()
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 230, 3), np.uint8)).save(image)
    monkeypatch.chdir(adapter)
    names: dict = {}
    exec(compile(transformers, "README.md", "exec"), names)
    ours = load_predictor(base.path, adapter=str(adapter), answer_tokens=6)(["rain again", "the band"], [image, None])
    theirs = [names["answer"]("rain again", image), names["answer"]("the band")]
    assert [each.output for each in ours] == theirs and all(theirs)
    processor = load_model(str(base.path), adapter=str(adapter)).recipe.processor
    seen = names["processor"]([names["read"](image)], **base.family.reference.options, return_tensors="pt")
    pixels = processor.pixels(names["read"](image), processor.layout(90, 230))
    frames = 2 if name == "qwen2_5_vl" else 1  # transformers has Qwen's image twice, as a film
    assert seen["pixel_values"].numel() == frames * np.asarray(pixels).size


@pytest.mark.parametrize(
    ("family", "fields", "has", "has_not"),
    [
        ("qwen2_5_vl", {"lora_rank": 4}, ["max_lora_rank=8,", "enable_tower_connector_lora=True"], []),
        ("qwen2_5_vl", {"lora_rank": 16, "lora_projector": "frozen"}, ["max_lora_rank=16,"], ["tower_connector"]),
        (
            "qwen2_5_vl",
            {"lora_projector": "frozen", "lora_targets": ("qkv",)},
            ["enable_tower_connector_lora=True"],
            [],
        ),
        ("qwen2_5_vl", {"lora_rank": 100, "lora_projector": "frozen"}, ["max_lora_rank=128,"], []),
        ("qwen2_5_vl", {"lora_rank": 300}, ["max_lora_rank=320,"], []),
        ("qwen2_5_vl", {"lora_rank": 513}, ["its rank is above 512. Merge"], ["LLM("]),
        ("qwen2_5_vl", {"lora_projector": "full"}, ["it holds the whole projector (modules_to_save). Merge"], ["LLM("]),
        ("mllama", {}, ["it has no LoRA for this family. Merge"], ["LLM("]),
        ("qwen2", {"lora_rank": 48}, ["max_lora_rank=64)"], ["tower_connector", "mm_processor_kwargs"]),
    ],
)
def test_the_cards_vllm_takes_the_adapter_or_says_why_it_cannot(family, fields, has, has_not):
    family = family_of({"model_type": family}, "config.json")
    config = config_of(IMAGES.get(family.name, {}), **fields)
    _, vllm = snippets(card := card_of(facts_of(family, config, "base")))
    assert all(part in vllm for part in has) and not any(part in vllm for part in has_not), vllm
    assert ("The adapter is not only on the decoder" in card) == ("tower_connector" in vllm)
    lora = Lora(config.lora_rank, 8.0, projector=config.lora_projector)
    assert bool(notes_on(lora, family, adapter=True)) == ("cannot serve" in vllm)
