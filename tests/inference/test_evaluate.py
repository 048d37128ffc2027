"""Evaluation of the test split: the files in the work directory, and the report that reads them."""

import json
import threading

import numpy as np
import pytest

from configs.base import get_config
from mmkp_jax.data.posts import Post
from mmkp_jax.data.records import open_split, write_dataset
from mmkp_jax.errors import LOST
from mmkp_jax.inference.evaluate import Evaluation, kinds_of
from mmkp_jax.inference.predictor import load_predictor
from mmkp_jax.pages.report.page import write_report
from mmkp_jax.training.watchdog import Watchdog
from tests.data.test_images import random_image, saved
from tests.support.tiny import write_model

POSTS, DAMAGED = 9, "test-4"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    (folder / "preprocessor_config.json").write_text('{"min_pixels": 3136, "max_pixels": 12544}')
    return load_predictor(folder, batch_size=2, answer_tokens=5)


@pytest.fixture
def config(tmp_path):
    """The config of a run on posts two of which share each keyphrase; the image of one cannot be decoded."""
    good = saved(random_image(60, 40))
    for n in range(1, POSTS + 1):
        (tmp_path / f"{n}.png").write_bytes(good[:150] if f"test-{n}" == DAMAGED else good)
    posts = {
        split: [
            Post(
                f"{split}-{n}",
                f"post {n}\x1b[2J\nnext",
                f"{n}.png" if n % 3 else None,
                (f"key {n // 2}",),
                None,
                "f",
                n,
            )
            for n in range(1, count + 1)
        ]
        for split, count in (("train", 2), ("test", POSTS))
    }
    write_dataset(tmp_path / "out", posts, tmp_path, on_bad_row="drop")
    config = get_config()
    config.strategy, config.data.path = "sft", str(tmp_path / "out")
    return config


def write_kinds(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_kinds_are_used_if_the_file_is_about_the_test_posts(config, tmp_path, capsys):
    words = Evaluation(config)._test.words
    own = [{"id": post.id, "needs": dict.fromkeys(post.keyphrases, "text")} for post in words]
    assert set(kinds_of(write_kinds(tmp_path / "own", own), words)) == {f"key {n // 2}" for n in range(1, POSTS + 1)}
    assert capsys.readouterr().out == ""
    few = kinds_of(write_kinds(tmp_path / "few", [{"needs": {"key 0": "text"}}]), words)
    assert few == {"key 0": "text"} and "a kind for 1 of 9 test keyphrases" in capsys.readouterr().out


@pytest.mark.parametrize(
    "row, reason",
    [
        (
            {"id": "test-1", "needs": {"coffee": "image", "key 0": "text"}},
            "1 rows do not match the post of their id",
        ),
        ({"id": "train-1", "needs": {"coffee": "image"}}, "it has none of their keyphrases"),
    ],
)
def test_kinds_of_other_posts_are_ignored_with_a_note(config, tmp_path, capsys, row, reason):
    """Pocket's file on other data, whose ids may be the same."""
    config.data.kinds = write_kinds(tmp_path / "needs.jsonl", [row])
    assert Evaluation(config)._kinds == {}
    assert f"(data.kinds) is about other posts ({reason}): no scores by kind" in capsys.readouterr().out


def test_hidden_states_of_every_usable_post_are_saved(predictor, config, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(config.to_json())
    shown = Evaluation(config).test(predictor, run, 7)
    assert DAMAGED in shown and "f1@1" in shown.lower()
    assert r"test-1: post 1\x1b[2J\nnext" in shown and "\x1b" not in shown  # a post's text moves no cursor
    results = json.loads((run / "results.json").read_text())
    assert set(results["forms"]) == {"direct", "cot", "other", "broken"}
    assert results["answers"]["tokens"] > 0 and "F1@O" in shown and "answers  words  tokens" in shown
    answered = [json.loads(line)["id"] for line in (run / "predictions/test-7.jsonl").read_text().splitlines()]
    assert len(answered) == POSTS and DAMAGED in answered
    with np.load(run / "hidden.npz") as stored:
        id_N, hidden_ND = stored["id_N"].tolist(), stored["hidden_ND"]
    assert id_N == [each for each in answered if each != DAMAGED] and hidden_ND.dtype == np.float16
    split = open_split(tmp_path / "out", "test")
    for number in (0, 2):  # each alone, with an image and without
        found = {}
        list(predictor.predict([split[number]], state=found.__setitem__))
        kept = hidden_ND[id_N.index(split[number].id)]
        np.testing.assert_allclose(kept, found[0], rtol=0, atol=2e-3 * np.abs(found[0]).max())
    assert len(np.unique(hidden_ND, axis=0)) == POSTS - 1
    write_report([run], run / "report.html")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("<circle") >= 6 and "no hidden.npz" not in page


def test_a_hanging_completion_ends_the_run(predictor, config, tmp_path, monkeypatch, capsys):
    """The second completion hangs until the watchdog ends the process, which here only notes the status."""
    ended, statuses = threading.Event(), []
    monkeypatch.setattr("os._exit", lambda status: (statuses.append(status), ended.set()))

    class Hanging:
        def predict(self, records, **options):
            for number, each in enumerate(predictor.predict(records, **options)):
                assert number == 0 or ended.wait(60)
                yield each

    with Watchdog(tmp_path, 0.3) as watchdog:
        Evaluation(config, watchdog).test(Hanging(), tmp_path, 7)
    assert set(statuses) == {LOST} and "no answer ended for 0.3 s" in capsys.readouterr().err
