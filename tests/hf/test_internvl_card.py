"""The cards of InternVL3's folders: code that runs unchanged, or, with the folder's own code, its parts."""

import re
from functools import partial

import numpy as np
import pytest
from PIL import Image

from configs import dyncot
from mmkp_jax.data.forest import Tree
from mmkp_jax.data.images import decode
from mmkp_jax.data.prompts import prompt_tokens
from mmkp_jax.families.registry import define
from mmkp_jax.hf.card import Base, CardFacts, Environment, Licence, card_of
from mmkp_jax.hf.folder import load_tokenizer, open_folder
from mmkp_jax.inference.predictor import load_predictor
from tests.support.needs_torch import needs_torch
from tests.support.tiny_internvl import LAYOUTS, pixel_values, tiny_internvl, write_internvl


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each layout, its limits of prompts, an image, and the text of its card."""
    root = tmp_path_factory.mktemp("cards")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    Image.fromarray(pixels).save(root / "image.png")
    config = dyncot.get_config("model=pocket")
    config.data.images, config.answer_tokens = {"max_tiles": 12}, 6
    for layout in LAYOUTS:
        write_internvl(root / layout, layout=layout)
        facts = CardFacts(
            repo="",
            family=open_folder(str(root / layout)).family,
            base=Base(f"InternVL3 {layout}", False, Licence("mit")),
            config=config.to_dict(),
            step=1,
            dtypes=["float32"],
            data=[],
            left_out=0,
            results=None,
            no_data="none",
            environment=Environment(),
        )
        (root / layout / "README.md").write_text(card_of(facts), encoding="utf-8")
    return root


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_the_snippet_answers_as_we_do(folders, monkeypatch, capsys):
    """The -hf card's code unchanged: with an image and without."""
    needs_torch()
    transformers, vllm = snippets((folders / "internvl" / "README.md").read_text(encoding="utf-8"))
    compile(vllm, "README.md", "exec")
    monkeypatch.chdir(folders / "internvl")
    names: dict = {}
    exec(compile(transformers, "README.md", "exec"), names)
    assert capsys.readouterr().out.startswith("[")
    texts, images = ["the band", "rain again"], [None, folders / "image.png"]
    theirs = [names["answer"](text, image) for text, image in zip(texts, images, strict=True)]
    ours = load_predictor(folders / "internvl", answer_tokens=6)(texts, images)
    assert [each.output for each in ours] == theirs and len(set(theirs)) == 2 and all(theirs)


def test_the_original_layouts_snippets_cut_tiles_and_write_prompts_as_training_did(folders):
    """The model itself runs with the folder's own code, which needs an older transformers; these parts do not."""
    needs_torch()
    card = (folders / "internvl_chat" / "README.md").read_text(encoding="utf-8")
    assert "trust_remote_code" in card and "transformers>=5" not in card
    transformers, vllm = snippets(card)
    for code in (transformers, vllm):
        compile(code, "README.md", "exec")
    folder = open_folder(str(folders / "internvl_chat"))
    processor, tokenizer = define(folder.config).processor, load_tokenizer(folder)

    names: dict = {}
    exec("import numpy as np\nimport torch\nfrom PIL import Image\n" + _function(transformers, "tiles"), names)
    image = decode((folders / "image.png").read_bytes())
    layout = processor.layout(image.height, image.width)
    tree = Tree([5], [], [], (layout,), (processor.pixels(image, layout),))
    theirs = names["tiles"](image, 56, 12).numpy()
    np.testing.assert_allclose(theirs, pixel_values(tree, tiny_internvl()).numpy(), atol=1e-6)

    reading = vllm.partition("llm = ")[0].partition("PROMPT = ")
    names = {"tokenizer": partial(tokenizer, add_special_tokens=False)}
    exec("import numpy as np\nfrom PIL import Image, ImageOps\n" + "".join(reading[1:]), names)
    ours = prompt_tokens(
        "café ☕", np.array([processor.image_token]), processor.template(tokenizer), max_text_tokens=96
    )
    shown = names["prompt"]("café ☕").replace("<image>", "<img><IMG_CONTEXT></img>")
    np.testing.assert_array_equal(tokenizer(shown, add_special_tokens=False).input_ids, ours)


def _function(code: str, name: str) -> str:
    return f"def {name}" + code.partition(f"def {name}")[2].partition("\n\n\n")[0]
