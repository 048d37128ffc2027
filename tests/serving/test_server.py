"""The server with a tiny model: what it answers is what the model predicts alone, whatever else is asked."""

import base64
import http.client
import json
import math
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mmkp_jax.data.posts import Post
from mmkp_jax.data.prompts import user_text
from mmkp_jax.data.records import write_dataset
from mmkp_jax.decoding.sampling import GREEDY
from mmkp_jax.inference.predictor import load_predictor
from mmkp_jax.serving.posts import ShownPosts
from mmkp_jax.serving.served import Options, load_all, warm_up
from tests.data.test_images import random_image, saved
from tests.support.running_server import running_server
from tests.support.tiny import write_model

ANSWER_TOKENS, SLOTS, ROOM = 12, 4, 200
HOSTILE = "<script>alert(1)</script> <|im_end|> \u202e </textarea>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder)
    (folder / "preprocessor_config.json").write_text('{"min_pixels": 3136, "max_pixels": 12544}')
    return folder


@pytest.fixture(scope="module")
def served(folder):
    found = load_all([str(folder)], Options(SLOTS, ANSWER_TOKENS, ROOM, False, GREEDY))
    warm_up(found[0])
    return found


@pytest.fixture(scope="module")
def server(served, tmp_path_factory):
    folder = tmp_path_factory.mktemp("posts")
    (folder / "0.png").write_bytes(image_of(0))
    texts = ("snow day", "spring parade", HOSTILE)
    posts = [Post(f"p{n}", text, None if n else "0.png", ("winter",), None, "f", n + 1) for n, text in enumerate(texts)]
    write_dataset(folder / "out", {"train": posts, "test": posts[:2]}, folder)
    with running_server(served, SLOTS, ShownPosts([folder / "out"])) as running:
        yield running


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """Predictions by `load_predictor`: of (text, image's bytes, mode)."""
    place = tmp_path_factory.mktemp("images")
    predictors = {
        m: load_predictor(folder, batch_size=4, answer_tokens=ANSWER_TOKENS, mode=m) for m in ("auto", "think")
    }

    def predicted(posts, mode="auto"):
        files = [None if image is None else place / f"{n}.png" for n, (_, image) in enumerate(posts)]
        for file, (_, image) in zip(files, posts, strict=True):
            if file:
                file.write_bytes(image)
        return predictors[mode]([text for text, _ in posts], files)

    return predicted


def image_of(seed: int) -> bytes:
    return saved(random_image(60 + seed % 40, 50 + seed % 30, seed=seed))


def url_of(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def content_of(text: str, image: bytes | None):
    parts = [] if image is None else [{"type": "image_url", "image_url": {"url": url_of(image)}}]
    return [*parts, {"type": "text", "text": text}]


def streamed(answer) -> tuple[str, list[dict]]:
    """The text of a stream, and its events."""
    *events, done, _ = answer.text.split("\n\n")
    assert done == "data: [DONE]"
    events = [json.loads(event.removeprefix("data: ")) for event in events]
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices), events


def test_the_page_gets_what_predict_gives_in_each_mode(server, alone):
    post = ("snow day", image_of(1))
    for mode in ("auto", "think"):
        (expected,) = alone([post], mode)
        found = server.ask("/api/predict", dict(model="tiny", text=post[0], image=url_of(post[1]), mode=mode)).json
        assert found["output"] == expected.output and found["tokens"] == expected.tokens and found["mode"] == mode
        assert [each["text"] for each in found["keyphrases"]] == expected.predicted
        if expected.scores:
            shares = [math.exp(each) for each in expected.scores.logprob]
            np.testing.assert_allclose([each["probability"] for each in found["keyphrases"]], shares, atol=2e-4)
        assert found["p_think"] == pytest.approx(expected.think, rel=1e-3)
        assert found["seconds"] > 0 and found["thinks"] == (mode == "think")
    direct = server.ask("/api/predict", dict(model="tiny", text="snow day", mode="direct")).json
    assert not direct["thinks"] and direct["reasoning"] is None


def test_a_chat_is_the_raw_output_and_post_its_keyphrases_streamed_or_not(server, alone):
    for post in (("snow day", image_of(2)), (HOSTILE, None)):
        (expected,) = alone([post])
        raw = server.chat("tiny", content_of(user_text(post[0]), post[1]))
        assert raw.json["choices"][0]["message"]["content"] == expected.output
        usage = raw.json["usage"]
        assert usage["completion_tokens"] == expected.tokens
        assert usage["total_tokens"] == usage["prompt_tokens"] + expected.tokens
        named = server.chat("tiny:post", content_of(*post))
        assert named.json["choices"][0]["message"]["content"] == "; ".join(expected.predicted)
        for model, content in (("tiny", content_of(user_text(post[0]), post[1])), ("tiny:post", content_of(*post))):
            whole = server.chat(model, content).json
            answer = server.chat(model, content, stream=True, stream_options={"include_usage": True})
            text, events = streamed(answer)
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert text == whole["choices"][0]["message"]["content"]
            assert events[-1]["usage"] == whole["usage"] and events[-1]["choices"] == []
            assert events[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_an_answer_ends_at_max_tokens_and_at_a_stop(server):
    whole = server.chat("tiny", "hello").json["choices"][0]["message"]["content"]
    cut = server.chat("tiny", "hello", max_tokens=3).json
    assert cut["choices"][0]["finish_reason"] == "length" and cut["usage"]["completion_tokens"] == 3
    assert whole.startswith(cut["choices"][0]["message"]["content"].rstrip("\ufffd"))
    stop = next(c for c in whole[2:] if c not in whole[:2] and c != "\ufffd")
    before = whole[: whole.index(stop)]
    stopped = server.chat("tiny", "hello", stop=[stop, "never"])
    assert stopped.json["choices"][0] | {"index": 0} == stopped.json["choices"][0]
    assert stopped.json["choices"][0]["message"]["content"] == before
    assert stopped.json["choices"][0]["finish_reason"] == "stop"
    assert streamed(server.chat("tiny", "hello", stop=stop, stream=True))[0] == before


def ask_all(server, posts):
    """Answers to all posts at once."""
    with ThreadPoolExecutor(len(posts)) as pool:
        asked = [pool.submit(server.chat, "tiny:post", content_of(*post)) for post in posts]
        return [each.result() for each in asked]


@pytest.mark.parametrize("count", [16, pytest.param(100, marks=pytest.mark.nightly)])
def test_requests_at_once_are_all_answered_and_none_gets_anothers_answer(server, alone, count):
    draw = random.Random(0)
    posts = [(f"post {n} " + "word " * draw.randrange(30), image_of(n) if n % 3 == 0 else None) for n in range(count)]
    expected = ["; ".join(each.predicted) for each in alone(posts)]
    assert len(set(expected)) > count // 2
    found = ask_all(server, posts)
    assert [each.status for each in found] == [200] * count
    assert [each.json["choices"][0]["message"]["content"] for each in found] == expected


def resident() -> int:
    """Bytes of this process in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


@pytest.mark.nightly
def test_memory_is_flat(server):
    posts = [(f"post {n}", image_of(n)) for n in range(100)]
    for _ in range(2):
        ask_all(server, posts)
    before = resident()
    for _ in range(3):
        assert all(each.status == 200 for each in ask_all(server, posts))
    assert resident() - before < 32 << 20


@pytest.mark.parametrize(
    "path, body, status, message",
    [
        ("/api/predict", b"{", 400, "the body is not JSON"),
        ("/api/predict", b"[1]", 400, "not a JSON object"),
        ("/api/predict", b"[" * 9999, 400, "the body is not JSON"),
        ("/api/predict", {"model": "tiny", "text": 1}, 400, "text is not a text"),
        ("/api/predict", {"model": "tiny", "text": " "}, 400, "neither a text nor an image"),
        ("/api/predict", {"model": "tiny", "text": "a", "mode": "x"}, 400, "mode is not one of auto, direct, think"),
        ("/api/predict", {"model": "tiny", "text": "a", "extra": 1}, 400, "extra is not one of"),
        ("/api/predict", {"model": "other", "text": "a"}, 404, "there is no model 'other'; there are tiny, tiny:post"),
        ("/api/predict", {"model": "tiny", "text": "a" * 200_001}, 400, "200,001 characters"),
        ("/api/predict", {"model": "tiny", "text": "a", "image": url_of(b"GIF89a")}, 400, "no image of a known kind"),
        ("/api/predict", {"model": "tiny", "text": "a", "image": url_of(b"")}, 400, "image file is empty"),
        ("/api/predict", {"model": "tiny", "text": "a", "image": "http://x/y.png"}, 400, "only data: URLs are read"),
        ("/api/examples/77", None, 404, "there is no example 77"),
        ("/v1/other", None, 404, "Not Found"),
        ("/v1/models", {}, 405, "Method Not Allowed"),
        ("/v1/chat/completions", {"model": "tiny", "messages": []}, 400, "messages is not a list"),
        (
            "/v1/chat/completions",
            {"model": "tiny", "messages": [{"role": "user", "content": "word " * 999}]},
            400,
            "more than the",
        ),
        (
            "/v1/chat/completions",
            {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 99},
            400,
            "max_tokens is 99, more than the 12 that there is room for",
        ),
        (
            "/v1/chat/completions",
            {"model": "tiny:post", "messages": [{"role": "user", "content": "a"}], "stop": "x"},
            400,
            "stop is not supported by tiny:post",
        ),
    ],
)
def test_a_bad_request_gets_an_error_that_says_why(server, path, body, status, message):
    answer = server.ask(path, body)
    assert answer.status == status and message in answer.json["error"]["message"]


def test_bodies_are_limited_and_must_be_sent_as_json(server):
    assert server.ask("/api/predict", b"{}", Content_Type="text/plain").status == 415
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", "/api/predict")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413 and b"more than 33,554,432 bytes" in answer.read()


def test_the_page_loads_nothing_from_elsewhere_and_answers_under_its_own_names_alone(server):
    page = server.ask("/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe-inline" not in policy.split(";")[1]
    assert "http://" not in page.text and "https://" not in page.text
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in page.headers
    for host, status in (
        ("evil.example", 403),
        ("localhost:1", 200),
        ("[::1]:80", 200),
        ("127.0.0.1.evil.example", 403),
    ):
        assert server.ask("/api/info", Host=host).status == status


def test_examples_and_nearest_posts_come_from_the_dataset(server):
    info = server.ask("/api/info").json
    assert [each["name"] for each in info["models"]] == ["tiny"] and not info["without_data"]
    first = server.ask(f"/api/examples/{info['examples'][0]['number']}").json
    assert first["text"] == info["examples"][0]["text"] and first["keyphrases"]
    again = server.ask("/api/predict", dict(model="tiny", text=first["text"], image=first["file"] or None))
    assert again.status == 200
    near = server.ask("/api/nearest", {"text": first["text"]}).json["posts"]
    assert [each["similarity"] for each in near] == sorted((each["similarity"] for each in near), reverse=True)
    assert server.ask("/api/nearest", {"text": "qqq"}).json["posts"] == []


def test_a_token_is_asked_for_everywhere_but_on_the_page(served):
    with running_server(served, SLOTS, token="a-secret-of-some-length") as running:
        assert running.ask("/").status == 200 and "secret" not in running.ask("/").text
        for headers in ({}, {"Authorization": "Bearer a-secret-of-some-lengtX"}):
            answer = running.ask("/v1/models", **headers)
            assert answer.status == 401 and "secret" not in answer.text
        answer = running.ask("/v1/models", Authorization="Bearer a-secret-of-some-length", Host="any.example")
        assert [each["id"] for each in answer.json["data"]] == ["tiny", "tiny:post"]


def test_a_request_that_nobody_waits_for_is_dropped_and_a_failure_is_said_once(server, served, monkeypatch):
    stream = served[0].stream
    advance, gate = stream.advance, threading.Event()

    def slowly():
        gate.wait(60)
        return advance()

    monkeypatch.setattr(stream, "advance", slowly)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = json.dumps({"model": "tiny:post", "messages": [{"role": "user", "content": "a"}]})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    wait_until(lambda: not stream.is_idle)
    served_before = server.decoder.served
    connection.close()
    time.sleep(0.3)  # for the server to see it
    monkeypatch.setattr(stream, "advance", advance)
    gate.set()
    wait_until(lambda: stream.is_idle)
    assert server.decoder.served <= served_before + 1

    def fails():
        monkeypatch.setattr(stream, "advance", advance)
        raise RuntimeError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(stream, "advance", fails)
    answer = server.chat("tiny:post", "b")
    assert answer.status == 500 and "decoding failed (RuntimeError)" in answer.json["error"]["message"]
    assert server.chat("tiny:post", "b").status == 200


def wait_until(happens, seconds=60):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.01)
