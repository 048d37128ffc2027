"""The pocket folder: written atomically, the same for a seed, and with a model that transformers loads."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mmkp_jax.data.prompts import cot_target, prompt_tokens, read_template
from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import load_tokenizer, open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.models.definition import flatten
from mmkp_jax.pocket import make
from mmkp_jax.pocket.corpus import questions
from mmkp_jax.pocket.make import FACTS, STAMP, VERSION, make_pocket
from mmkp_jax.pocket.model import INIT, OUTPUT_SCALE, write_model
from mmkp_jax.pocket.posts import SEEN
from mmkp_jax.pocket.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS
from mmkp_jax.pocket.world import make_facts
from tests.support import tiny
from tests.support.needs_torch import needs_torch

SIZES = {"train": 120, "valid": 10, "test": 20}


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    """A pocket of few posts."""
    out = tmp_path_factory.mktemp("made") / "pocket"
    make_pocket(out, seed=0, sizes=SIZES)
    return out


@pytest.fixture(scope="module")
def folder(pocket):
    return open_folder(str(pocket / "model"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def digests(root: Path) -> dict[str, str]:
    files = (file for file in root.rglob("*") if file.is_file())
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_folder_has_posts_images_and_model(pocket):
    assert {file.name for file in pocket.iterdir()} == {
        *("posts", "images", "needs.jsonl", "facts.jsonl", "model", "pocket.json"),
    }
    assert {file.name for file in (pocket / "posts").iterdir()} == {"train.jsonl", "valid.jsonl", "test.jsonl"}


def test_same_seed_same_bytes(pocket, tmp_path):
    make_pocket(tmp_path / "again", seed=0, sizes=SIZES)
    assert digests(tmp_path / "again") == digests(pocket)


def test_pocket_is_made_once(pocket):
    before = (pocket / "needs.jsonl").stat().st_mtime_ns
    make_pocket(pocket, seed=0, sizes=SIZES)
    assert (pocket / "needs.jsonl").stat().st_mtime_ns == before


def test_another_pocket_or_folder_is_not_overwritten(pocket, tmp_path):
    with pytest.raises(InputError, match="another seed"):
        make_pocket(pocket, seed=1, sizes=SIZES)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not a pocket"):
        make_pocket(tmp_path, sizes=SIZES)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(out: Path, *_) -> None:
        (out / "posts").mkdir()
        raise OSError("no space left on device")

    monkeypatch.setattr(make, "_write", fail)
    with pytest.raises(OSError, match="no space"):
        make_pocket(tmp_path / "pocket", sizes=SIZES)
    assert not list(tmp_path.iterdir())


def test_two_processes_at_once_make_one_pocket(pocket, tmp_path, monkeypatch):
    out, write = tmp_path / "pocket", make._write

    def write_while_another_finishes(*args) -> None:
        monkeypatch.setattr(make, "_write", write)
        make_pocket(out, sizes=SIZES)
        write(*args)

    monkeypatch.setattr(make, "_write", write_while_another_finishes)
    make_pocket(out, sizes=SIZES)
    assert [file.name for file in tmp_path.iterdir()] == ["pocket"]
    assert digests(out) == digests(pocket)


def test_a_pocket_of_an_older_version_is_put_aside_with_a_line(pocket, tmp_path, capsys):
    out = shutil.copytree(pocket, tmp_path / "pocket")
    for name in ("pocket.version-1", "pocket.version-1.2"):
        stamp = {"version": 1, "seed": 0, "sizes": SIZES}
        (out / STAMP).write_text(json.dumps(stamp))
        (out / "posts" / "train.jsonl").write_text(name)
        make_pocket(out, sizes=SIZES)
        assert capsys.readouterr().err.splitlines() == [
            f"{out}: it is of an older version, so a new one is made; the old one is now {tmp_path / name}"
        ]
        assert json.loads((tmp_path / name / STAMP).read_text()) == stamp
        assert (tmp_path / name / "posts" / "train.jsonl").read_text() == name
        assert digests(out) == digests(pocket)


def test_a_pocket_of_a_newer_version_is_not_put_aside(pocket, tmp_path):
    out = shutil.copytree(pocket, tmp_path / "pocket")
    (out / STAMP).write_text(json.dumps({"version": VERSION + 1, "seed": 0, "sizes": SIZES}))
    with pytest.raises(InputError, match="another seed, size or version"):
        make_pocket(out, sizes=SIZES)
    assert [file.name for file in tmp_path.iterdir()] == ["pocket"]


def test_it_asks_for_each_fact(pocket):
    asked = (pocket / FACTS).read_text().splitlines()
    assert len(asked) == len(questions(make_facts(0, SEEN).chains)) == 564


def test_without_weights_it_says_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setattr("mmkp_jax.pocket.make.PRETRAINED", tmp_path / "none")
    with pytest.raises(InputError, match=r"no pretrained weights.*benchmarks\.pocket_pretraining"):
        make_pocket(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_pretrained_model_reads_names_as_few_tokens(folder, tokenizer):
    params = flatten(load_params(folder, define(folder.config).shapes()))
    assert 1e6 < sum(leaf.size for leaf in params.values()) < 8e6
    template = read_template(tokenizer, image_token=folder.config["image_token_id"])
    chains = make_facts(0, SEEN).chains
    names = {name for chain in chains for name in (chain.middle, *chain.hint.split(), *chain.tag)}
    tokens = Counter(len(template.plain.encode(f" {name}").ids) for name in names)
    assert max(tokens) <= 3 and tokens[1] / tokens.total() >= 0.9


def test_a_random_model_has_its_init(tokenizer, tmp_path):
    write_model(tokenizer, 0, tmp_path / "model")
    folder = open_folder(str(tmp_path / "model"))
    params = flatten(load_params(folder, define(folder.config).shapes()))
    for path, leaf in params.items():
        if path.endswith(".scale"):
            assert (leaf == 1).all(), path
        elif path.endswith(".bias"):
            assert (leaf == 0).all(), path
        else:
            scale = np.std(leaf) / INIT
            assert scale == pytest.approx(1, rel=0.05) or scale == pytest.approx(OUTPUT_SCALE, rel=0.05), path


def test_model_loads_with_transformers(folder):
    torch = needs_torch()
    from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration

    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder.path, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    theirs = model.state_dict()["model.language_model.embed_tokens.weight"].numpy()
    ours = flatten(load_params(folder, define(folder.config).shapes()))["decoder.embedding"]
    np.testing.assert_array_equal(theirs, ours)
    assert GenerationConfig.from_pretrained(folder.path).eos_token_id[0] == folder.config["eos_token_id"]


def test_image_processor_loads_with_transformers(folder):
    from PIL import Image
    from transformers import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil.from_pretrained(folder.path)
    fed = processor(images=[Image.new("RGB", (168, 112))], return_tensors="np")
    assert fed["image_grid_thw"].tolist() == [[1, 6, 8]]
    square = processor(images=[Image.new("RGB", (1120, 1120))], return_tensors="np")
    assert square["image_grid_thw"].tolist() == [[1, 8, 8]]


def test_config_has_the_layout_of_published_configs(folder):
    assert "text_config" not in folder.config
    config = define(folder.config).config
    assert set(config.vision.full_attention_layers) < set(range(config.vision.depth))
    assert sum(config.mrope_section) == config.head_dim // 2
    assert config.num_kv_heads < config.num_heads


def test_special_tokens_are_qwens_and_follow_the_plain_ones(folder, tokenizer):
    numbers = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert numbers == list(range(len(tokenizer) - len(SPECIAL_TOKENS), len(tokenizer)))
    assert tokenizer("<|im_end|>").input_ids == [folder.config["eos_token_id"]]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == folder.config["image_token_id"]
    assert len(tokenizer) <= folder.config["vocab_size"] and folder.config["vocab_size"] % 64 == 0
    assert (SPECIAL_TOKENS, CHAT_TEMPLATE) == (tiny.SPECIAL_TOKENS, tiny.CHAT_TEMPLATE)


def test_tokenizer_decodes_any_text_it_encoded(pocket, tokenizer):
    lines = (pocket / "posts/train.jsonl").read_text().splitlines()
    texts = [text for line in lines for text in (json.loads(line)["text"], json.loads(line)["cot"] or "")]
    for text in (*texts, "Grüße! 你好 🙂\n\ttabs  and 1234 don't"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_prompts_and_targets_are_short(pocket, folder, tokenizer):
    template = read_template(tokenizer, image_token=folder.config["image_token_id"])
    image = np.full(16, template.image_token)
    for line in (pocket / "posts/train.jsonl").read_text().splitlines():
        post = json.loads(line)
        assert len(prompt_tokens(post["text"], image, template, max_text_tokens=128)) < 160
        assert len(cot_target(post["cot"] or "", post["keyphrases"], template)) < 100
