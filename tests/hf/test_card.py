"""The model card: code that runs unchanged, metadata that the hub reads, and what is known of the run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from mmkp_jax.data.images import decode
from mmkp_jax.data.prompts import read_template, trimmed
from mmkp_jax.export import main
from mmkp_jax.hf.card import Base, Licence, card_of, licence_of
from mmkp_jax.inference.export_run import facts_of, open_step
from mmkp_jax.inference.predictor import load_predictor
from tests.support.needs_torch import needs_torch
from tests.support.small_pocket import TRAINED_ON


def snippets(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def write_images(image: Image.Image, folder: Path) -> list[Path]:
    """An image as files that hold more, or other, than upright RGB."""
    rgb, grey = image.convert("RGB"), image.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(folder / "on its side.jpg", exif=exif)
    rgba = rgb.copy()
    rgba.putalpha(grey)
    rgba.save(folder / "rgba.png")
    Image.merge("LA", (grey, grey)).save(folder / "la.png")
    rgb.quantize(8).save(folder / "palette.png", transparency=0)
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(folder / "16 bits.png")
    Image.fromarray(np.asarray(grey).astype(np.int32)).save(folder / "32 bits.tiff")
    Image.fromarray(np.asarray(grey).astype(np.float32) / 255).save(folder / "float.tiff")
    return sorted(folder.iterdir())


def test_the_snippet_predicts_what_we_predict(exported_pocket, tmp_path, monkeypatch, capsys):
    """The card's code unchanged, on texts alone, one of them too long, and on images of many kinds."""
    needs_torch()
    _, out = exported_pocket
    images = sorted((out.parent / "pocket" / "images").glob("test-*"))[:2]
    others = write_images(Image.open(images[0]), tmp_path)
    long = "café ☕ 🤷 at <place> " * 40
    odd = [file for file in others if file.stem in ("16 bits", "on its side", "rgba")]
    texts = ["the band at <place>", long, "rain again", *["café ☕"] * len(odd)]
    images = [None, None, images[1], *odd]
    transformers, vllm = snippets((out / "README.md").read_text(encoding="utf-8"))
    compile(vllm, "README.md", "exec")
    monkeypatch.chdir(out)
    names: dict = {}
    exec(compile(transformers, "README.md", "exec"), names)
    assert capsys.readouterr().out.startswith("[")
    theirs = [names["keyphrases"](text, image) for text, image in zip(texts, images, strict=True)]
    written = [names["answer"](text, image) for text, image in zip(texts, images, strict=True)]
    template = read_template(names["tokenizer"], image_token=names["model"].config.image_token_id)
    cut = [trimmed(text, template, max_text_tokens=96) for text in texts]  # as in training
    ours = load_predictor(out, answer_tokens=24)(cut, images)
    assert [each.predicted for each in ours] == theirs and any(theirs)
    assert [each.output for each in ours] == written and len(set(written)) > 1

    for file in others:
        np.testing.assert_array_equal(names["read"](file), decode(file.read_bytes()), err_msg=file.name)
    assert [names["cut"](text) for text in texts] == cut and len(cut[1]) < len(long) / 2
    with_vllm = vllm.partition("llm = ")[0].partition("PROMPT = ")[2]
    assert with_vllm.count("\n") > 20 and with_vllm in transformers


def test_the_hub_reads_the_metadata(exported_pocket):
    _, out = exported_pocket
    data = ModelCard.load(out / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "image-text-to-text", "unknown")
    results = {each.metric_name: each for each in data.eval_results}
    assert results["F1@M, all (n = 6)"].metric_value == 50.0
    assert results["F1@1, all (n = 6)"].dataset_name == "keyphrase_posts"
    assert {each.dataset_split for each in data.eval_results} == {"test"}


def test_the_card_gives_scores_with_n_and_intervals_data_and_settings(exported_pocket):
    _, out = exported_pocket
    card = (out / "README.md").read_text(encoding="utf-8")
    row = re.search(r"\| all \| 6 \| ([\d.]+) \[([\d.]+), ([\d.]+)\] \| 50.00 \[", card)
    assert row and float(row[2]) < float(row[1]) < float(row[3])
    assert re.search(rf"\| keyphrase_posts \| train \| {TRAINED_ON} \| `[0-9a-f]{{16}}` \|", card)
    assert re.search(r"\| keyphrase_posts \| test \| 5 \|", card)
    for part in ("| γ | 0.4 nats a label |", "3,136 to 12,544 pixels", "96 tokens", "`tower`", "| steps | 7 ("):
        assert part in card, part
    assert "| F1@O | HIT@3 | HIT@5 | diversity | novelty | novel precision |" in card
    assert str(out.parent) not in card  # nothing of this machine


def test_without_its_dataset_the_card_says_so(exported_pocket, tmp_path, capsys):
    workdir, _ = exported_pocket
    run = shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["path"] = str(tmp_path / "gone")
    (run / "config.json").write_text(json.dumps(config))
    assert main([f"--workdir={run}", f"--out={tmp_path / 'out'}"]) == 0
    assert "the card has no data and scores: " in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The dataset was not available" in card and "No scores" in card and "model-index" not in card


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"README.md": "---\nlicense: apache-2.0\n---\n"}, Licence("apache-2.0")),
        (
            {"README.md": "---\nlicense: other\nlicense_name: qwen-research\nlicense_link: https://x/LICENSE\n---\n"},
            Licence("other", "qwen-research", "https://x/LICENSE"),
        ),
        ({"LICENSE": "                Apache License\n            Version 2.0, January 2004\n"}, Licence("apache-2.0")),
        ({"LICENSE": "Qwen RESEARCH LICENSE AGREEMENT\n"}, Licence("other", "qwen-research", "LICENSE")),
        ({"LICENSE": "Do as you like.\n"}, Licence("other", None, "LICENSE")),
        ({"README.md": "No metadata.\n"}, Licence("unknown")),
        ({"README.md": "---\nlicense: [\n---\n"}, Licence("unknown")),
        ({}, Licence("unknown")),
    ],
)
def test_the_licence_is_that_of_the_base(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert licence_of(tmp_path) == expected


def test_what_a_base_says_is_no_markup_and_no_script(exported_pocket, tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: '<script>x</script>'\nlicense_link: 'javascript:alert(1)'\n---\n"
    )
    licence = licence_of(tmp_path)
    facts = facts_of(open_step(exported_pocket[0], "latest")[0])
    environment = facts.environment._replace(device="a | b [c](d)", packages={"jax": "1 `x`\n# y"})
    facts = facts._replace(base=Base("`a` <b>", False, licence), environment=environment)
    text = ModelCard(card_of(facts)).text
    assert "javascript:" not in text and "<script>" not in text and "\n# y" not in text
    for part in (r"\<script\>x\</script\>", "`a <b>`", r"a \| b \[c\]\(d\)", r"jax 1 \`x\` \# y"):
        assert part in text, part


def test_a_folder_of_licences_is_no_licence(tmp_path):
    (tmp_path / "LICENSES").mkdir()
    assert licence_of(tmp_path) == Licence("unknown")


@pytest.mark.parametrize("licence", ["[apache-2.0]", "{a: b}", "7"])
def test_a_licence_of_another_type_is_unknown(tmp_path, licence):
    (tmp_path / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    assert licence_of(tmp_path) == Licence("unknown")


def test_a_base_on_the_hub_is_named_and_linked(exported_pocket):
    workdir, _ = exported_pocket
    base = Base("Qwen/Qwen2.5-VL-3B-Instruct", True, Licence("other", "qwen-research", "https://x/LICENSE"))
    card = ModelCard(card_of(facts_of(open_step(workdir, "latest")[0])._replace(base=base)))
    assert card.data.base_model == base.name and card.data.license_name == "qwen-research"
    assert "[Qwen/Qwen2.5-VL-3B-Instruct](https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct)" in card.text
    assert "qwen-research ([text](https://x/LICENSE))" in card.text


def test_with_another_dataset_under_its_path_the_card_says_so(exported_pocket, tmp_path, capsys):
    workdir, _ = exported_pocket
    run = shutil.copytree(workdir, tmp_path / "run")
    (run / "contents.json").write_text(json.dumps({"data.path": "of others"}))
    assert main([f"--workdir={run}", f"--out={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "the card has no data and scores: " in said and "data.path name other content" in said
    assert "model-index" not in (tmp_path / "out" / "README.md").read_text()
