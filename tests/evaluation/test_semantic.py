"""Semantic F1: worked by hand, against a second implementation, and with a model's folder."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmkp_jax.errors import InputError
from mmkp_jax.evaluation import embedding
from mmkp_jax.evaluation.embedding import load_embedding
from mmkp_jax.evaluation.semantic import semantic_scores
from tests.evaluation.test_metric import random_case
from tests.support.naive_metric import naive_semantic
from tests.support.shared_folder import TextPost

ANGLES = {"a": 0, "b": 60, "c": 90, "d": 180, "dog": 0, "dogs": 90}


def on_a_circle(texts):
    angles = np.radians([ANGLES[each] for each in texts])
    return 3 * np.column_stack((np.cos(angles), np.sin(angles))).astype(np.float32)


def test_recall_is_a_mean_over_targets():
    """Targets at 0 and 90 degrees, a prediction at 60: P = cos 30, R = (cos 60 + cos 30) / 2, not their sum."""
    found = semantic_scores([TextPost("", ["a", "c"])], ["b"], on_a_circle)
    precision, recall = math.cos(math.pi / 6), (0.5 + math.cos(math.pi / 6)) / 2
    f1 = 2 * precision * recall / (precision + recall)
    assert found == pytest.approx({"n": 1, "precision": precision, "recall": recall, "f1": f1}, abs=1e-6)
    many = semantic_scores([TextPost("", ["b"])], ["a;c;d"], on_a_circle)
    assert many["precision"] == pytest.approx((0.5 + math.cos(math.pi / 6) - 0.5) / 3)
    assert many["recall"] == pytest.approx(math.cos(math.pi / 6))


def test_a_match_after_stemming_is_1_and_no_prediction_is_0():
    posts = [TextPost("", ["dogs"]), TextPost("", ["a"]), TextPost("", [])]
    found = semantic_scores(posts, ["dog", "", "a"], on_a_circle)
    assert found == {"n": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert semantic_scores(posts[2:], ["a"], on_a_circle) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_second_implementation_agrees(seed):
    posts, lines, _, _ = random_case(seed, posts=60)
    table = {}

    def vector(phrase):
        return table.setdefault(phrase, np.random.default_rng(len(table)).normal(size=5)).tolist()

    ours = semantic_scores(posts, lines, lambda texts: np.array([vector(each) for each in texts]))
    assert ours == pytest.approx(naive_semantic(posts, lines, vector), abs=1e-12) and 0.2 < ours["f1"] < 0.9


def write_modules(root, *kinds, **mode):
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"{n}_{kind}"} for n, kind in enumerate(kinds)]
    (root / "modules.json").write_text(json.dumps(modules))
    (root / "1_Pooling").mkdir(exist_ok=True)
    (root / "1_Pooling" / "config.json").write_text(json.dumps(mode))


def states_alone(folder, text):
    """The states of a text's tokens, without any padding."""
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    return AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0].detach().numpy()


TEXTS = ["red dog red bus", "cat", "dog bus"]


def test_an_embedding_is_the_mean_over_a_texts_own_tokens_or_what_the_folder_says(embedding_folder):
    alone = [states_alone(embedding_folder, text) for text in TEXTS]
    mean, first = (np.stack([f(each) for each in alone]) for f in (lambda x: x.mean(axis=0), lambda x: x[0]))
    np.testing.assert_allclose(load_embedding(embedding_folder)(TEXTS), mean, atol=1e-6)
    write_modules(
        embedding_folder, "Transformer", "Pooling", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True
    )
    np.testing.assert_allclose(load_embedding(embedding_folder)(TEXTS), first, atol=1e-6)
    write_modules(
        embedding_folder, "Transformer", "Pooling", "Normalize", pooling_mode="mean", word_embedding_dimension=8
    )
    np.testing.assert_allclose(load_embedding(embedding_folder)(TEXTS), mean, atol=1e-6)
    (embedding_folder / "sentence_bert_config.json").write_text('{"max_seq_length": 3}')
    cut = states_alone(embedding_folder, "red").mean(axis=0)
    np.testing.assert_allclose(load_embedding(embedding_folder)(TEXTS)[0], cut, atol=1e-6)
    (embedding_folder / "sentence_bert_config.json").unlink()


TWO = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}


@pytest.mark.parametrize(
    "kinds, mode, message",
    [
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "its pooling is 'pooling_mode_max_tokens'"),
        (
            ("Transformer", "Pooling"),
            TWO,
            "'mean', 'cls'",
        ),
        (("Transformer", "Pooling", "Dense"), {"pooling_mode_mean_tokens": True}, "'modules\\[2\\].type' is .*Dense"),
    ],
)
def test_a_folder_that_asks_for_something_else_is_refused(embedding_folder, kinds, mode, message):
    write_modules(embedding_folder, *kinds, **mode)
    with pytest.raises(InputError, match=message):
        load_embedding(embedding_folder)


def change(folder, change_tensors):
    """Changes the tensors of a folder's weights."""
    tensors = load_file(folder / "model.safetensors")
    change_tensors(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


WORDS = "embeddings.word_embeddings.weight"


def test_a_folder_that_is_not_whole_is_refused(embedding_folder):
    change(embedding_folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "pooler" in name])
    load_embedding(embedding_folder)  # published folders lack it
    change(embedding_folder, lambda tensors: tensors.update({WORDS: np.full_like(tensors[WORDS], np.nan)}))
    with pytest.raises(InputError, match="numbers that are not finite"):
        load_embedding(embedding_folder)
    change(embedding_folder, lambda tensors: tensors.pop(WORDS))
    with pytest.raises(InputError, match=f"lack 1 tensors, such as {WORDS}"):
        load_embedding(embedding_folder)
    for file in (*embedding_folder.glob("vocab*"), *embedding_folder.glob("tokenizer*")):
        file.unlink()
    with pytest.raises(InputError, match="no tokenizer here"):
        load_embedding(embedding_folder)


def test_a_text_beyond_the_models_positions_is_cut(embedding_folder):
    config = json.loads((embedding_folder / "config.json").read_text())
    (embedding_folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4}))
    name = "embeddings.position_embeddings.weight"
    change(embedding_folder, lambda tensors: tensors.update({name: tensors[name][:4].copy()}))
    embed = load_embedding(embedding_folder)
    assert np.isfinite(embed(["red " * 50])).all()
    np.testing.assert_allclose(embed(["red " * 50]), embed(["red red"]), atol=1e-6)


def test_a_tokenizer_of_another_model_is_one_line(embedding_folder):
    change(embedding_folder, lambda tensors: tensors.update({WORDS: tensors[WORDS][:-1].copy()}))
    config = json.loads((embedding_folder / "config.json").read_text())
    (embedding_folder / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] - 1}))
    with pytest.raises(InputError, match=r"its model cannot be used \(IndexError"):
        load_embedding(embedding_folder)(["bus"])


def test_what_is_no_model_is_one_line(embedding_folder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="there is no model here"):
        load_embedding(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "vocab.txt").write_text("red")
    with pytest.raises(InputError, match="its model cannot be used"):
        load_embedding(tmp_path)
    (tmp_path / "config_sentence_transformers.json").write_text('{"default_prompt_name": "query"}')
    with pytest.raises(InputError, match="the prompt 'query'"):
        load_embedding(tmp_path)
    monkeypatch.setattr(embedding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"need PyTorch; pip install 'mmkp_jax\[semantic\]'"):
        load_embedding(embedding_folder)
