"""Folders of Llama 3.2 Vision: what transformers makes of them, their preprocessor's file, and their card."""

import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from configs import dyncot
from mmkp_jax.data.forest import Tree
from mmkp_jax.data.prompts import keyphrase_target, prompt_tokens
from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import define
from mmkp_jax.hf.card import Base, CardFacts, Environment, Licence, card_of
from mmkp_jax.hf.folder import load_tokenizer, open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.preprocessor import check_preprocessor, with_settings
from mmkp_jax.hf.verify import BOUND, our_logits, reference_outputs
from mmkp_jax.inference.predictor import load_predictor
from mmkp_jax.models.family import Reference
from tests.support.needs_torch import needs_torch
from tests.support.zoo import model_of, write_folder

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder in the published layout, with an image next to it and the text of its card."""
    path = write_folder(tmp_path_factory.mktemp("mllama") / "model", model_of("mllama"))
    Image.fromarray(PIXELS).save(path.parent / "image.png")
    config = dyncot.get_config("model=pocket")
    config.data.images, config.answer_tokens = {}, 6
    facts = CardFacts(
        repo="",
        family=open_folder(str(path)).family,
        base=Base("Llama", False, Licence("other")),
        config=config.to_dict(),
        step=1,
        dtypes=["float32"],
        data=[],
        left_out=0,
        results=None,
        no_data="none",
        environment=Environment(),
    )
    (path / "README.md").write_text(card_of(facts), encoding="utf-8")
    return path


def verified(path, adjust: bool = True) -> list[float]:
    """The largest difference of logits from transformers', relative to the largest: with an image, and without."""
    opened = open_folder(str(path))
    definition = define(opened.config)
    processor, tokenizer = definition.processor, load_tokenizer(opened)
    template, file = processor.template(tokenizer), io.BytesIO()
    Image.fromarray(PIXELS).save(file, "png")
    target, layout = keyphrase_target(["post", "image"], template), processor.layout(90, 130)
    pixels = processor.pixels(Image.fromarray(PIXELS), layout)
    with_image = prompt_tokens("a post", processor.placeholder(layout), template, max_text_tokens=9)
    without = prompt_tokens("a post", None, template, max_text_tokens=9)
    trees = [Tree(with_image, target, [], (layout,), (pixels,)), Tree(without, target, [])]
    family = definition.family
    if not adjust:
        reference: Reference = family.reference._replace(adjust=lambda model: None)
        family = dataclasses.replace(family, reference=reference)
    theirs = reference_outputs(family, opened.path, trees, [file.getvalue(), b""], 3)
    ours = our_logits(definition, load_params(opened, definition.shapes()), trees)
    return [
        float(np.abs(found.logits_MV - logits).max() / np.abs(logits).max())
        for found, logits in zip(theirs, ours, strict=True)
    ]


def test_verify_compares_with_what_the_model_was_trained_to_compute(folder):
    """transformers as it is takes other features for the same config: verifying tells it which are meant."""
    needs_torch()
    assert max(verified(folder)) <= BOUND
    with_image, without = verified(folder, adjust=False)
    assert with_image > 100 * BOUND and without <= BOUND


@pytest.mark.nightly
def test_the_cards_snippet_answers_as_we_do(folder, monkeypatch, capsys):
    """Its code unchanged: with an image and without."""
    needs_torch()
    card = (folder / "README.md").read_text(encoding="utf-8")
    transformers, vllm = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    compile(vllm, "README.md", "exec")
    assert "vllm==0.10.2" in card
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(compile(transformers, "README.md", "exec"), names)
    assert capsys.readouterr().out.startswith("[")
    texts, images = ["the band", "rain again"], [None, folder.parent / "image.png"]
    theirs = [names["answer"](text, image) for text, image in zip(texts, images, strict=True)]
    ours = load_predictor(folder, answer_tokens=6)(texts, images)
    assert [each.output for each in ours] == theirs and len(set(theirs)) == 2 and all(theirs)


@pytest.mark.parametrize(
    "field, value",
    [
        ("size", None),
        ("size", {"height": 448, "width": 448}),
        ("image_mean", None),
        ("image_std", [0.5, 0.5, 0.5]),
        ("resample", 3),
        ("do_pad", False),
        ("max_image_tiles", 1),
        ("image_processor_type", "Qwen2VLImageProcessor"),
    ],
)
def test_another_preprocessing_is_refused(folder, tmp_path, field, value):
    """Without sides and colours transformers would take some of its own."""
    opened = open_folder(str(folder))
    content = json.loads((folder / "preprocessor_config.json").read_text()) | {field: value}
    content = {name: value for name, value in content.items() if value is not None}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=field):
        check_preprocessor(tmp_path, opened.family, opened.model_config)


def test_the_preprocessors_file_is_exported_as_it_is(folder):
    opened = open_folder(str(folder))
    check_preprocessor(folder, opened.family, opened.model_config)
    written = with_settings(folder, opened.family, {})
    assert written == {"preprocessor_config.json": json.loads((folder / "preprocessor_config.json").read_text())}
