"""Predictions from Python: in order, complete, and as a file."""

import json
import re
import textwrap

import jax
import pytest

import mmkp_jax.inference.predictor as predicting
from mmkp_jax.data.forest import RowSize
from mmkp_jax.data.posts import Post, Reject
from mmkp_jax.decoding.generate import Completion
from mmkp_jax.decoding.prompts import Prompt
from mmkp_jax.decoding.sampling import Sampling
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.predictions import PhraseScores, Prediction, prediction_of, write_predictions
from mmkp_jax.inference.predictor import load_predictor, read_post
from mmkp_jax.runtime.json_files import Fields
from tests.data.test_images import random_image, saved
from tests.support.posts_on_disk import write_posts
from tests.support.tiny import write_model

ANSWER_TOKENS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    (folder / "preprocessor_config.json").write_text('{"min_pixels": 3136, "max_pixels": 12544}')
    return folder


@pytest.fixture(scope="module")
def predictor(folder):
    return load_predictor(folder, batch_size=4, answer_tokens=ANSWER_TOKENS)


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "stage.png"
    file.write_bytes(saved(random_image(70, 50, seed=1)))
    return file


def test_the_example_in_the_docstring_runs(folder, image, monkeypatch, capsys):
    monkeypatch.chdir(image.parent)
    (example,) = re.findall(r"\n\n((?:    .*\n|\n)+)\n", predicting.__doc__)
    example = textwrap.dedent(example).replace("stage.jpg", "stage.png")
    example = example.replace('"runs/dyncot"', f'"{folder}", answer_tokens=3')
    exec(compile(example, "docstring", "exec"), {})
    assert re.fullmatch(r"\[.*\]\n", capsys.readouterr().out)


def test_the_image_changes_a_prediction_and_other_posts_do_not(predictor, image):
    alone = predictor(["snow day"], [image])[0]
    among = predictor(["news", "snow day", "snow day"], [None, image, None])
    assert [each.id for each in among] == ["0", "1", "2"]
    assert among[1].output == alone.output != among[2].output
    assert 0 < alone.tokens <= ANSWER_TOKENS and alone.form in ("direct", "cot", "broken")


def test_every_record_is_predicted_and_rejects_get_an_empty_prediction(predictor, tmp_path):
    split = write_posts(tmp_path, count=11)
    rows = [split[number] for number in range(11)]
    expected = [each for _, each in sorted(predictor.predict(rows))]
    assert [each.id for each in expected] == [row.id for row in rows]
    assert expected[1].keyphrases == ["key 1", "news"] and min(each.tokens for each in expected) > 0
    bad = Reject("bad", "f", 3, "the image is truncated", "repair it", Post("bad", "text", "x.png", ("kp",)))
    skipped = []
    found = dict(predictor.predict([*rows[:3], bad, *rows[3:]], skipped.append))
    assert found.pop(3) == Prediction("bad", ["kp"], [], "", "broken", 0)
    assert [(each.id, each.reason) for each in skipped] == [("bad", "the image is truncated")]
    assert [each for _, each in sorted(found.items())] == expected


def test_other_parameters_share_the_compiled_programs(predictor):
    other = predictor.with_params(jax.tree.map(lambda leaf: leaf * 0.9, predictor._params))
    before = predictor(["snow"])
    assert other(["snow"]) != before and predictor(["snow"]) == before
    assert other._generator is predictor._generator


def test_an_image_that_becomes_unreadable_gives_an_empty_prediction(predictor, image):
    good = read_post("good", "snow", image)
    bad = predicting.Record("bad", "snow", good.image[:150], good.width, good.height, ("kp",), None)
    skipped = []
    found = dict(predictor.predict([bad, good], skipped.append))
    assert found[0] == Prediction("bad", ["kp"], [], "", "broken", 0) and found[1].tokens > 0
    assert skipped[0].id == "bad" and "truncated" in skipped[0].reason


def test_an_answer_that_cannot_hold_the_beginning_of_a_chain_is_refused(folder):
    short = load_predictor(folder, answer_tokens=1, mode="think")
    with pytest.raises(InputError, match=r"does not hold the \d+ of <think> and a chain"):
        short(["snow"])
    assert load_predictor(folder, answer_tokens=1, mode="direct")(["snow"])[0].tokens == 1


def test_keyphrases_of_more_samples_come_first(predictor, folder):
    several = load_predictor(folder, answer_tokens=3, sampling=Sampling(1.0, seed=1), num_samples=3)
    (prediction,) = several(["snow"])
    assert len(prediction.outputs) == 3 and prediction.output == prediction.outputs[0]
    assert json.loads(prediction.line())["outputs"] == list(prediction.outputs)
    assert several(["news", "snow"])[1] != prediction  # another id, so other samples
    encode = predictor._tokenizer.encode
    texts = [encode(text) for text in ("b; a", "c; a; a", "<think>x</think><answer>c; a</answer>")]
    drawn = [Completion(0, number, tokens, [-1.0] * len(tokens)) for number, tokens in enumerate(texts)]
    merged = several._prediction(predicting._PendingPost("x", (), Prompt("x", RowSize(2, 0, 0), 0, 0)), drawn)
    assert merged.predicted == ["a", "c", "b"] and (merged.form, merged.tokens) == ("direct", len(texts[0]))
    assert merged.scores is prediction.scores is None  # several samples have several log-probabilities


def test_keyphrases_have_the_log_probabilities_of_their_tokens(predictor):
    tokens = predictor._tokenizer.encode("<think>x</think><answer>b c; z</answer>", add_special_tokens=False)
    logprobs = [-0.25 * (number + 1) for number in range(len(tokens))]
    found = predictor._prediction(
        predicting._PendingPost("x", (), Prompt("x", RowSize(2, 0, 0), 0, 0)), [Completion(0, 0, tokens, logprobs)]
    )
    decode = predictor._tokenizer.decode
    b, c, z = (next(n for n, token in enumerate(tokens) if decode([token]).strip() == each) for each in "bcz")
    own = [logprobs[b : c + 1], logprobs[z : z + 1]]
    assert found.predicted == ["b c", "z"] and len(own[0]) > 1
    assert found.scores == PhraseScores(tuple(map(sum, own)), tuple(sum(each) / len(each) for each in own))
    (real,) = predictor(["snow"])
    assert real.scores is None if not real.predicted else len(real.scores.logprob) == len(real.predicted)


def test_files_have_one_line_a_post_in_either_form(tmp_path):
    predictions = [
        Prediction("a", ["x"], ["two words", "b"], "two words; b", "direct", 4),
        Prediction("b", [], [], "", "broken", 0),
        Prediction(
            "c", ["z"], ["over\ntwo lines"], "over\ntwo lines", "direct", 5, scores=PhraseScores((-1.5,), (-0.5,))
        ),
    ]
    write_predictions(tmp_path / "p.jsonl", predictions)
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "id": "a",
        "keyphrases": ["x"],
        "predicted": ["two words", "b"],
        "output": "two words; b",
        "form": "direct",
        "tokens": 4,
    }
    assert rows[2]["scores"] == {"logprob": [-1.5], "mean_logprob": [-0.5]}
    assert [prediction_of(Fields(row, "p.jsonl")) for row in rows] == predictions
    write_predictions(tmp_path / "p.txt", predictions)
    assert (tmp_path / "p.txt").read_text() == "two words;b\n\nover two lines\n"
    assert len(list(tmp_path.iterdir())) == 2


def test_an_image_that_cannot_be_used_is_one_line(predictor, tmp_path):
    with pytest.raises(InputError, match=r"none\.png: there is no image 'none\.png'; give another image"):
        predictor(["a"], [tmp_path / "none.png"])


def test_decoding_runs_on_the_mesh_of_the_parameters(predictor):
    assert predicting._mesh_of(predictor._params) is jax.tree.leaves(predictor._params)[0].sharding.mesh
