import asyncio
import email.utils
import time

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.client import Client
from mmkp_jax.teacher.endpoint import Endpoint, Limits
from mmkp_jax.teacher.faults import Refused, Unavailable, retry_after
from tests.support.fake_endpoint import FINAL, MODEL, FakeEndpoint


def ask_once(server, limits=Limits(attempts=4, backoff=0.01), **fields):  # noqa: B008
    endpoint = Endpoint(fields.pop("base_url", None) or server.base_url, fields.pop("model", MODEL), **fields)

    async def asked():
        async with Client(endpoint, limits) as client:
            return await client.ask(endpoint.body([{"role": "user", "content": "hello"}]), 100)

    return asyncio.run(asked())


@pytest.mark.parametrize("fault", ["429", "500", "503", "200 error", "reset", "half", "not json", "no choices"])
def test_transient_faults_are_retried(fault):
    with FakeEndpoint(fault=lambda said, attempt: fault if attempt < 3 else None) as server:
        assert ask_once(server).attempt == 3
        assert len(server.calls) == 3


@pytest.mark.parametrize("fault", ["400", "filter"])
def test_refusals_are_not_retried(fault):
    with FakeEndpoint(fault=lambda said, attempt: fault) as server:
        with pytest.raises(Refused, match="400: it is against the rules"):
            ask_once(server)
        assert len(server.calls) == 1


@pytest.mark.parametrize("fault", [each for each in FINAL if each not in ("400", "filter")])
def test_a_paid_answer_is_never_asked_for_again(fault):
    with FakeEndpoint(fault=lambda said, attempt: fault) as server:
        assert ask_once(server).attempt == 1
        assert len(server.calls) == 1


def test_a_hung_call_times_out():
    with FakeEndpoint(fault=lambda said, attempt: "hang") as server:
        with pytest.raises(Unavailable, match=r"no answer within 0\.3 s"):
            ask_once(server, Limits(attempts=2, timeout=0.3, backoff=0.01))
        assert len(server.calls) == 2


def test_retry_after_holds_back_every_call():
    with FakeEndpoint(fault=lambda said, attempt: "429 after" if attempt == 1 else None, retry_after=0.6) as server:
        started = time.monotonic()
        assert ask_once(server).attempt == 2
        assert time.monotonic() - started >= 0.6 and server.too_soon == 0


def test_retry_after_is_read_in_all_its_forms():
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after-ms": "250"}) == 0.25
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 55 < retry_after({"retry-after": in_a_minute}) <= 60
    assert retry_after({"retry-after": "soon"}) is None and retry_after({}) is None


def test_a_long_retry_after_ends_the_run():
    with (
        FakeEndpoint(fault=lambda said, attempt: "429 after", retry_after=7200) as server,
        pytest.raises(InputError, match=r"asks to wait 2\.0 hours"),
    ):
        ask_once(server)


def test_wrong_addresses_keys_and_models_are_one_line_before_anything_is_paid(monkeypatch, key):
    with FakeEndpoint(key="another") as server, pytest.raises(InputError) as error:
        ask_once(server)
    assert "denies access" in str(error.value) and "OPENAI_API_KEY" in str(error.value)
    assert key not in str(error.value)  # although the endpoint repeats it
    with FakeEndpoint() as server:
        with pytest.raises(InputError, match="no model 'other'"):
            ask_once(server, model="other")
        with pytest.raises(InputError, match="check --base_url"):
            ask_once(server, base_url=server.base_url.removesuffix("/v1") + "/elsewhere")
        assert not server.answered
    with pytest.raises(InputError, match="cannot be reached"):
        ask_once(server)  # it is gone
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="OPENAI_API_KEY: the environment holds no key"):
        ask_once(server)


def test_only_secrets_are_hidden(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    with FakeEndpoint(fault=lambda said, attempt: "400") as server:
        for secrets, shown in [((), "it is against the rules"), (["against the"], "it is … rules")]:
            with pytest.raises(Refused, match=shown):
                ask_once(server, headers={"X-Title": "against the"}, secrets=secrets)


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://host/v1", "https://user:word@host/v1", "https://host/v1?key=1"]
)
def test_an_address_is_a_host_and_a_path(url):
    with pytest.raises(InputError) as error:
        Endpoint(url, MODEL)
    assert "word" not in str(error.value) and "key=1" not in str(error.value)


@pytest.mark.parametrize("field", ["stream", "n", "messages"])
def test_fields_that_would_break_answers_are_refused(field):
    with pytest.raises(InputError, match=f"'{field}' of a request cannot be set"):
        Endpoint("http://host/v1", MODEL, {field: 2})


def test_extra_body_and_headers_pass_through():
    with FakeEndpoint() as server:
        ask_once(server, parameters={"top_k": 5, "provider": {"order": ["x"]}}, headers={"X-Title": "keyphrases"})
        assert server.calls[0].body["top_k"] == 5 and server.calls[0].body["provider"] == {"order": ["x"]}
