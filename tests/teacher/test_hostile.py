"""An endpoint that means no well: what it sends ends no run, lowers no cost, and gets through to no screen or page."""

import gzip
import json
import zlib

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.answers import answer_row, content_of, usage_in, verdict
from mmkp_jax.teacher.bodies import NotJson, read_body
from mmkp_jax.teacher.cost import Usage, usage_of
from mmkp_jax.teacher.endpoint import Endpoint, Limits
from mmkp_jax.teacher.faults import retry_after
from mmkp_jax.teacher.questions import Request
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.transport import PIECE, Unpacker, Unusable
from tests.support.fake_endpoint import HOSTILE_AGAIN, HOSTILE_ANSWERED, HOSTILE_FINAL, MODEL, USAGES, FakeEndpoint
from tests.support.teacher_posts import HOSTILE, PRICES, ask, hostile, post_number, text_posts

BOUNDS = Limits(concurrency=8, timeout=10.0, attempts=4, backoff=0.01)
MOST = Usage(100, 50)


@pytest.fixture(autouse=True)
def small_answers(monkeypatch):
    """A limit that a packed answer passes soon."""
    monkeypatch.setenv("MMKP_MAX_ANSWER_BYTES", "1000000")


def of_post(kinds):
    """The n-th kind for the n-th post."""
    return lambda said: kinds[post_number(said)] if post_number(said) < len(kinds) else None


def stored(file, name="key"):
    return {row["id"]: row for row in map(json.loads, file.read_text().splitlines()) if name in row}


def body(content="People say so.", finish="stop", **more):
    return {"choices": [{"message": {"content": content}, "finish_reason": finish} | more]}


# --- what an answer is worth ---


@pytest.mark.parametrize("finish", ["stop", None])
def test_an_answer_is_complete_at_stop_or_without_a_finish_reason(finish):
    assert verdict(body(finish=finish)) == ("answered", "")
    assert verdict({"choices": [{"message": {"content": "so"}}]}) == ("answered", "")


@pytest.mark.parametrize("finish", ["error", "abort", "max_tokens", "tool_calls", "STOP", "", 0, True, ["stop"], {}])
def test_any_other_finish_reason_is_unfinished_and_reported(finish):
    status, reason = verdict(body(finish=finish))
    assert status == "unfinished" and "not 'stop'" in reason


def test_an_answer_with_an_error_inside_is_not_complete():
    assert verdict(body(error={"code": 400, "message": "bad\n\x1b[2J"}))[0] == "unfinished"
    assert "\x1b" not in verdict(body(error={"message": "bad\n\x1b[2J"}))[1]


@pytest.mark.parametrize("choices", [[], None, 5, [None], [[]], [{"message": "text"}], [{}], {"0": {}}])
def test_an_answer_without_a_message_is_empty(choices):
    assert verdict({"choices": choices})[0] == "empty"


def test_a_rows_verdict_comes_from_its_answer_not_from_its_stored_status(tmp_path):
    posts = text_posts(2)
    with FakeEndpoint(fault=of_post_fault("finish abort")) as server:
        ask(server, tmp_path / "s", posts)
    text = (tmp_path / "s").read_text().replace('"status": "unfinished"', '"status": "answered"')
    (tmp_path / "s").write_text(text)
    with Store(tmp_path / "s") as store:
        row = store.get(stored(tmp_path / "s")["p0"]["key"])
        assert row["status"] == "answered" and verdict(row["answer"])[0] == "unfinished"


def of_post_fault(fault):
    return lambda said, attempt: fault if post_number(said) == 0 else None


# --- money ---


@pytest.mark.parametrize("usage", [*USAGES.values(), None, 5, {}, {"prompt_tokens": 5}, {"prompt_tokens": None}])
def test_an_implausible_usage_is_ignored(usage):
    assert usage_of({"usage": usage}, MOST) is None


def test_a_usage_above_the_estimate_counts_as_it_is_up_to_a_bound():
    def counted(prompt, completion):
        return usage_of({"usage": {"prompt_tokens": prompt, "completion_tokens": completion}}, MOST)

    assert counted(20_000, 15_000) == (20_000, 15_000) and counted(1, 0) == (1, 0)
    assert counted(20_001, 1) is None and counted(1, 15_001) is None


def test_an_implausible_usage_counts_at_its_highest_cost_and_the_answer_is_kept(tmp_path):
    kinds = [*USAGES]
    fault = of_post(kinds)
    with FakeEndpoint(fault=lambda said, attempt: fault(said)) as server:
        run = ask(server, tmp_path / "s", text_posts(len(kinds) + 1), BOUNDS)
        again = ask(server, tmp_path / "s", text_posts(len(kinds) + 1), BOUNDS)
        assert len(server.calls) == len(kinds) + 1 == again.found
    rows = stored(tmp_path / "s")
    for n in range(len(kinds)):
        assert rows[f"p{n}"]["status"] == "answered" and rows[f"p{n}"]["cost"] is None and "note" in rows[f"p{n}"]
    assert run.implausible == again.implausible == len(kinds)
    most = sum(PRICES.cost(Usage(**rows[f"p{n}"]["most"])) for n in range(len(kinds)))
    assert run.unpriced == pytest.approx(most) and again.unpriced == pytest.approx(most)
    assert run.spent == rows[f"p{len(kinds)}"]["cost"] > 0
    assert "with an implausible usage" in "\n".join(run.lines(PRICES))


@pytest.mark.parametrize("usage", ["usage negative", "usage 10^400", "usage none of a prompt"])
def test_max_cost_holds_whatever_an_endpoint_counts(tmp_path, usage):
    with FakeEndpoint(fault=lambda said, attempt: usage) as server:
        run = ask(server, tmp_path / "s", text_posts(60), BOUNDS, max_cost=0.02)
        calls = len(server.calls)
        assert run.stopped and 0 < calls < 20 and run.spent == 0 and run.unpriced <= 0.02
        assert ask(server, tmp_path / "s", text_posts(60), BOUNDS, max_cost=0.02).asked == 0
        assert len(server.calls) == calls


def test_an_endpoint_without_choices_is_charged_by_its_usage_and_not_asked_again(tmp_path):
    fault = of_post_fault("no choices, usage")
    with FakeEndpoint(fault=fault) as server:
        run = ask(server, tmp_path / "s", text_posts(3), BOUNDS)
        assert run.asked == 3 and not run.unavailable and len(server.calls) == 2 + BOUNDS.attempts
        prompt, completion = server.tokens()
        assert run.spent == pytest.approx((prompt * PRICES.input + completion * PRICES.output) / 1e6)
        assert run.unpriced == 0
        assert ask(server, tmp_path / "s", text_posts(3), BOUNDS).found == 3
        assert len(server.calls) == 2 + BOUNDS.attempts
    row = stored(tmp_path / "s")["p0"]
    assert row["status"] == "empty" and row["usage"]["prompt"] > 0
    assert len([line for line in (tmp_path / "s").read_text().splitlines() if '"lost"' in line]) == BOUNDS.attempts - 1


@pytest.mark.parametrize("kind", HOSTILE_AGAIN)
def test_hostile_failures_are_retried_and_their_possible_cost_counts(tmp_path, kind):
    def fault(said, attempt):
        return kind if post_number(said) == 5 and attempt == 1 else None

    with FakeEndpoint(fault=fault) as server:
        run = ask(server, tmp_path / "s", text_posts(6), BOUNDS)
        assert run.asked == 6 and not run.unavailable and len(server.calls) == 7
        charged = [call.tokens for call in server.calls if call.fault]
    assert (run.lost == 1) == (charged != [0])
    prompt, completion = server.tokens()
    counted = (prompt * PRICES.input + completion * PRICES.output) / 1e6
    assert run.spent + run.unpriced >= counted * (1 - 1e-9)


@pytest.mark.parametrize("kind", HOSTILE_ANSWERED)
def test_unusually_encoded_answers_are_accepted_at_once(tmp_path, kind):
    with FakeEndpoint(fault=of_post_fault(kind)) as server:
        run = ask(server, tmp_path / "s", text_posts(2), BOUNDS)
        assert (run.asked, run.lost, len(server.calls)) == (2, 0, 2)
        assert ask(server, tmp_path / "s", text_posts(2), BOUNDS).found == 2
    with Store(tmp_path / "s") as store:
        row = store.get(stored(tmp_path / "s")["p0"]["key"])
        assert "People say so" in content_of(row).replace("\u202e", "") and content_of(row).encode()
    json.loads((tmp_path / "s").read_text().splitlines()[-1], parse_constant=pytest.fail)


def test_a_lone_surrogate_is_stored_unchanged(tmp_path):
    with FakeEndpoint(fault=of_post_fault("half a character")) as server:
        ask(server, tmp_path / "s", text_posts(1), BOUNDS)
    row = stored(tmp_path / "s")["p0"]
    assert row["answer"]["choices"][0]["message"]["content"].endswith("\ud800")
    assert content_of(row).endswith("\ufffd")


@pytest.mark.parametrize("kind", HOSTILE_FINAL)
def test_an_incomplete_answer_is_stored_apart_and_not_asked_again(tmp_path, kind):
    with FakeEndpoint(fault=of_post_fault(kind)) as server:
        run = ask(server, tmp_path / "s", text_posts(2), BOUNDS)
        assert ask(server, tmp_path / "s", text_posts(2), BOUNDS).found == len(server.calls) == 2
        prompt, completion = server.tokens()
    assert stored(tmp_path / "s")["p0"]["status"] == "unfinished"
    assert run.spent == pytest.approx((prompt * PRICES.input + completion * PRICES.output) / 1e6)


def test_all_faults_at_once_end_with_every_post_and_the_endpoints_own_count(tmp_path):
    posts = text_posts(len(HOSTILE))
    bounds = Limits(concurrency=8, timeout=1.0, attempts=5, backoff=0.01)
    with FakeEndpoint(fault=hostile) as server:
        run = ask(server, tmp_path / "s", posts, bounds)
        calls = len(server.calls)
        again = ask(server, tmp_path / "s", posts, bounds)
        assert (again.found, again.asked, len(server.calls)) == (len(posts), 0, calls)
    rows = stored(tmp_path / "s")
    assert {n: rows[f"p{n}"]["status"] for n in range(len(posts))} == dict(enumerate(HOSTILE.values()))

    def money(calls):
        usages = [server._usage(call.body) for call in calls if call.tokens]
        return sum(PRICES.cost(Usage(each["prompt_tokens"], each["completion_tokens"])) for each in usages)

    assert run.spent == again.spent == pytest.approx(money(call for call in server.calls if call.reported), rel=1e-9)
    assert run.unpriced == again.unpriced >= money(call for call in server.calls if not call.reported) > 0


# --- bytes ---


def test_json_is_read_in_each_of_its_encodings():
    text = json.dumps({"a": "é\ud83d\ude00"}, ensure_ascii=False)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"):
        assert read_body(text.encode(encoding, "surrogatepass"))["a"].startswith("é")


@pytest.mark.parametrize("content", [b"", b"[1]", b"5", b"\xff", b"{", b'{"a": 01}', b"<html>", b"null", b'"\xff"'])
def test_any_other_body_is_not_json(content):
    with pytest.raises(NotJson):
        read_body(content)


def test_nesting_is_bounded_and_unrepresentable_numbers_are_kept_as_text():
    for depth in (101, 990, 100_000):
        with pytest.raises(NotJson, match="nested too deep"):
            read_body(b'{"a":' * depth + b"1" + b"}" * depth)
    found = read_body(b'{"a": 1e999, "b": NaN, "c": ' + b"9" * 5000 + b', "d": 1e9}')
    assert found == {"a": "1e999", "b": "NaN", "c": "9" * 5000, "d": 1e9}


def test_bytes_are_decompressed_a_piece_at_a_time_and_damage_is_noticed():
    content = bytes(3 * PIECE) + b"end"

    def unpacked(packed, encoding="gzip"):
        unpacker, out = Unpacker(encoding), []
        for start in range(0, len(packed), 1000):
            out += unpacker.pieces(packed[start : start + 1000])
        unpacker.end()
        assert all(0 < len(piece) <= PIECE for piece in out)
        return b"".join(out)

    raw = zlib.compressobj(wbits=-15)
    assert unpacked(gzip.compress(content)) == unpacked(zlib.compress(content), "deflate") == content
    assert unpacked(raw.compress(content) + raw.flush(), "deflate") == content
    assert unpacked(gzip.compress(b"a") + gzip.compress(content)) == b"a" + content  # two members
    for packed in (gzip.compress(content)[:-1], gzip.compress(content)[:-8] + bytes(8), b"no gzip", b"\x1f\x8b"):
        with pytest.raises(Unusable):
            unpacked(packed)
    with pytest.raises(Unusable):
        Unpacker("gzip, gzip")


# --- elsewhere ---


def test_a_redirect_is_not_followed_and_gets_no_secret(tmp_path, monkeypatch):
    with FakeEndpoint() as other:
        place = f"http://user:word@127.0.0.1:{other.port}/v1/chat/completions?key=sk-secret#\x7f"
        for status in ("302", "307"):
            with FakeEndpoint(fault=lambda said, attempt, s=status: f"redirect {s}", elsewhere=place) as server:
                with pytest.raises(InputError) as error:
                    ask(server, tmp_path / "s", text_posts(3), BOUNDS)
                message = str(error.value)
                assert f"redirects to another address ({status}: http://127.0.0.1:{other.port}/v1" in message
                assert "word" not in message and "sk-secret" not in message and len(server.calls) == 1
        assert not other.headers


@pytest.mark.parametrize(
    "asked", ["-5", "nan", "inf", "-inf", "1e9", "1e999", "Fri, 31 Dec 99999 23:59:59 GMT", "\u00b2", "9" * 5000]
)
def test_an_implausible_retry_after_is_ignored(asked):
    assert retry_after({"retry-after": asked}) is None
    assert retry_after({"retry-after-ms": f"{asked}000", "retry-after": asked}) is None


def test_control_characters_of_an_endpoint_are_escaped(tmp_path):
    message = "\x1b]0;title\x07\x1b[2J\r\n\u202eslow"
    row = answer_row(Request("p", {}), {"choices": [{"message": {"refusal": message}}]}, MOST)
    assert row["reason"].isprintable() and row["status"] == "declined" and usage_in(row) is None


@pytest.mark.parametrize(
    "parameters", [{"max_tokens": None}, {"max_tokens": "many"}, {"max_completion_tokens": -1}, {"max_tokens": True}]
)
def test_an_answer_is_always_bounded(parameters):
    with pytest.raises(InputError, match="it bounds what an answer costs"):
        Endpoint("http://host/v1", MODEL, parameters)


@pytest.mark.parametrize("url", ["http://[::1", "http://h:99999/v1", "http://h\x1b/v1", "http://h:x/v1"])
def test_an_invalid_address_is_one_line(url):
    with pytest.raises(InputError) as error:
        Endpoint(url, MODEL)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("headers", [{"X": "a\nb"}, {"X": "é"}, {"X y": "a"}, {"": "a"}])
def test_an_invalid_header_is_one_line(headers):
    with pytest.raises(InputError):
        Endpoint("http://host/v1", MODEL, headers=headers)


def test_an_implausibly_low_usage_is_ignored():
    said = {"choices": [{"message": {"content": "It snows."}}]}
    most = MOST._replace(prompt=1000)
    assert usage_of(said | {"usage": {"prompt_tokens": 900, "completion_tokens": 0}}, most) is None
    assert usage_of(said | {"usage": {"prompt_tokens": 9, "completion_tokens": 3}}, most) is None
    assert usage_of(said | {"usage": {"prompt_tokens": 900, "completion_tokens": 3}}, most) == (900, 3)
    empty = {"choices": [], "usage": {"prompt_tokens": 900, "completion_tokens": 0}}
    assert usage_of(empty, most) == (900, 0)
