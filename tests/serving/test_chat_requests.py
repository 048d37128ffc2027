"""A chat completion's body: read in full, or refused with the field that is wrong."""

import base64

import pytest

from mmkp_jax.data.conversations import Turn
from mmkp_jax.decoding.sampling import GREEDY, Sampling
from mmkp_jax.serving.chat_requests import chat_request
from mmkp_jax.serving.outputs import cut_at, settled
from mmkp_jax.serving.refusals import Refusal

FILE = b"bytes of an image"
DATA = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(FILE).decode()}"}}
HELLO = {"role": "user", "content": "hello"}


def said(text):
    return {"type": "text", "text": text}


def image_at(url):
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def test_a_request_is_read_with_its_image_where_it_is():
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [said("a"), DATA, said("b")]}]
    body = {"model": "m", "messages": messages, "max_tokens": 5, "stop": "x", "stream": True, "user": "me"}
    found = chat_request(body | {"stream_options": {"include_usage": True}}, GREEDY, last_only=False)
    assert found.turns == (Turn("system", ("be brief",)), Turn("user", ("a", None, "b")))
    assert found[1:] == (FILE, 5, ("x",), True, True)


def test_the_last_message_of_the_user_may_be_all_that_is_read():
    messages = [{"role": "tool", "content": 7}, HELLO, {"role": "assistant", "content": "hi"}]
    assert chat_request({"messages": messages}, GREEDY, last_only=True).turns == (Turn("user", ("hello",)),)


def test_settings_that_ask_for_nothing_and_those_of_the_server_are_accepted():
    neutral = {
        "n": 1,
        "tools": None,
        "logprobs": False,
        "presence_penalty": 0.0,
        "temperature": 0,
        "top_p": 1,
        "seed": 9,
    }
    assert chat_request({"messages": [HELLO], **neutral}, GREEDY, last_only=False).max_tokens is None
    warm = Sampling(0.5, 0.9, 3)
    chat_request({"messages": [HELLO], "temperature": 0.5, "top_p": 0.9, "seed": 3}, warm, last_only=False)
    for field in ({"temperature": 0}, {"top_p": 1}, {"seed": 4}):
        with pytest.raises(Refusal, match="start serve with --"):
            chat_request({"messages": [HELLO], **field}, warm, last_only=False)


@pytest.mark.parametrize(
    "changed, param, message",
    [
        ({"messages": None}, "messages", "not a list"),
        ({"messages": []}, "messages", "not a list"),
        ({"messages": ["hello"]}, "messages[0]", "role is not one of"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "role is not one of"),
        ({"messages": [{**HELLO, "name": "me"}]}, "messages[0]", "messages[0].name is not supported"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0]", "neither a text nor a list"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0]", "type is not one of"),
        ({"messages": [{"role": "system", "content": [DATA]}]}, "messages[0]", "only the user's messages"),
        ({"messages": [{"role": "user", "content": [DATA, DATA]}]}, "messages", "2 images; the model takes one"),
        ({"messages": [HELLO, {"role": "assistant", "content": "h"}]}, "messages", "is the assistant's"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "half a character"),
        ({"messages": image_at("http://127.0.0.1/x.png")}, None, "'http', but only data: URLs are read"),
        ({"messages": image_at("file:///etc/passwd")}, None, "'file', but only data: URLs are read"),
        ({"messages": image_at("data:image/png,raw")}, None, "no data: URL in base64"),
        ({"messages": image_at("data:image/png;base64,A?==")}, None, "no valid base64"),
        ({"temperature": 0.7}, "temperature", "temperature is 0 for all requests"),
        ({"temperature": True}, "temperature", "temperature is 0 for all requests"),
        ({"n": 2}, "n", "n is not supported"),
        ({"n": True}, "n", "n is not supported"),
        ({"logprobs": True}, "logprobs", "logprobs is not supported"),
        ({"tools": [{}]}, "tools", "tools is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"best_of": 1}, "best_of", "best_of is not supported"),
        ({"max_tokens": 0}, "max_tokens", "not a whole number from 1"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "differ"),
        ({"stop": [""]}, "stop", "stop is not a text"),
        ({"stop": list("abcde")}, "stop", "stop is not a text"),
        ({"stream": 1}, "stream", "not true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "goes with stream"),
    ],
)
def test_what_cannot_be_done_is_refused(changed, param, message):
    with pytest.raises(Refusal) as refused:
        chat_request({"model": "m", "messages": [HELLO], **changed}, GREEDY, last_only=False)
    error = refused.value.body()["error"]
    assert message in error["message"] and "\n" not in error["message"] and error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param


def test_a_text_is_cut_at_the_first_stop_and_nothing_is_sent_that_may_be_cut():
    assert cut_at("one; two; three", ("three", "; ")) == ("one", True)
    assert cut_at("one", (";",)) == ("one", False)
    assert settled("one</ans", ("</answer>", "xyz")) == "one"
    assert settled("caf\ufffd", ()) == "caf" and settled("one", ("z",)) == "one"
    whole, stops = "a<b</answer>c", ("</answer>",)
    sent = [settled(whole[:n], stops) for n in range(8)]
    assert all(cut_at(whole, stops)[0].startswith(each) for each in sent) and sent[3] == "a<b"
