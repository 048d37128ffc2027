import dataclasses
import json
import os
import signal
import threading
import time
from collections import Counter

import pytest

from mmkp_jax.data.numbered import records_of
from mmkp_jax.errors import InputError
from mmkp_jax.teacher import limits
from mmkp_jax.teacher.cost import Prices
from mmkp_jax.teacher.endpoint import Limits
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.teaching import write_results
from tests.support.fake_endpoint import FAULTS, FINAL, RETURNED, FakeEndpoint
from tests.support.teacher_posts import (
    LIMITS,
    PRICES,
    ask,
    charged,
    counting,
    faults,
    image_posts,
    job_for,
    post_number,
    text_posts,
)

TRANSIENT = [each for each in FAULTS if each != "hang"]


def rows_of(file):
    """The answers in a store's file."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row for row in rows if "out" not in row and "lost" not in row and "uncharged" not in row]


@pytest.mark.parametrize("count", [500, pytest.param(2000, marks=pytest.mark.nightly)])
def test_posts_come_out_of_a_bad_endpoint_without_loss_or_double_charge(tmp_path, monkeypatch, count):
    monkeypatch.setattr(limits, "MINUTE", 1.0)  # so that the test sees many of them
    transient, final = faults(0.06, TRANSIENT, first=2), faults(0.04, FINAL, first=99)

    def fault(said, attempt):
        if post_number(said) % 600 == 7 and attempt == 1:
            return "hang"
        return transient(said, attempt) or final(said[::-1], attempt)

    posts = text_posts(count)
    with FakeEndpoint(fault=fault, delay=0.02) as server:
        bounds = dataclasses.replace(LIMITS, timeout=5, rpm=300, tpm=120_000)
        run = ask(server, tmp_path / "s", posts, bounds)
    rows = rows_of(tmp_path / "s")
    assert {row["id"] for row in rows} == {post.id for post in posts} and len(rows) == count
    assert run.asked == count and not run.unavailable and run.lost > 0
    assert max(server.answered.values()) == 1
    assert run.spent == pytest.approx(charged(server), rel=1e-9)
    assert server.max_in_flight <= LIMITS.concurrency and server.too_soon == 0
    assert server.most_within(0.95) <= 300  # what is evenly spaced here comes in unevenly there
    assert server.most_within(0.95, lambda call: call.tokens) <= 120_000
    found = Counter(row["status"] for row in rows)
    assert (
        set(found) == {"answered", "cut", "refused", "filtered", "declined", "empty"}
        and found["answered"] > 0.9 * count
    )
    assert {row["answer"]["model"] for row in rows if row["answer"]} == {RETURNED}
    assert len(server.calls) > 1.05 * count  # the faults were there


def test_what_is_in_the_store_is_not_asked_again(tmp_path):
    posts = text_posts(30)
    with FakeEndpoint() as server:
        ask(server, tmp_path / "s", posts[:20])
        run = ask(server, tmp_path / "s", posts)
        assert (run.found, run.asked, len(server.calls)) == (20, 10, 30)


def test_posts_that_ask_the_same_are_asked_once(tmp_path):
    posts = text_posts(3) * 5
    with FakeEndpoint(delay=0.05) as server:
        run = ask(server, tmp_path / "s", posts)
        assert len(server.calls) == 3 and run.asked + run.found == 15


def test_refused_posts_are_asked_again_only_with_retry_refused(tmp_path):
    with FakeEndpoint(fault=lambda said, attempt: "400" if post_number(said) == 3 and attempt == 1 else None) as server:
        ask(server, tmp_path / "s", text_posts(5))
        assert ask(server, tmp_path / "s", text_posts(5)).asked == 0
        assert ask(server, tmp_path / "s", text_posts(5), retry_refused=True).asked == 1
    assert [row["status"] for row in rows_of(tmp_path / "s") if row["id"] == "p3"] == ["refused", "answered"]


def test_unavailable_posts_are_asked_again(tmp_path):
    with FakeEndpoint(fault=lambda said, attempt: "500" if post_number(said) == 3 and attempt < 3 else None) as server:
        run = ask(server, tmp_path / "s", text_posts(5), Limits(4, attempts=2, backoff=0.01))
        assert list(run.unavailable) == [3] and "500" in run.unavailable[3]
        assert ask(server, tmp_path / "s", text_posts(5)).asked == 1


def test_max_cost_is_never_passed_and_counts_earlier_runs(tmp_path):
    with FakeEndpoint() as server:
        whole = ask(server, tmp_path / "a", text_posts(60)).spent
        run = ask(server, tmp_path / "b", text_posts(60), max_cost=whole / 2)
        assert run.stopped and 0 < run.spent <= whole / 2
        calls = len(server.calls)
        again = ask(server, tmp_path / "b", text_posts(60), max_cost=run.spent)
        assert again.asked == 0 and len(server.calls) == calls


def test_max_cost_holds_where_the_endpoint_reports_no_usage(tmp_path):
    with FakeEndpoint(usage=lambda body: None) as server:
        run = ask(server, tmp_path / "s", text_posts(60), max_cost=0.02)
        assert run.stopped and 0 < len(server.calls) < 20 and run.unpriced <= 0.02
        assert "unknown cost" in run.lines(PRICES)[1]
        calls = len(server.calls)
        assert ask(server, tmp_path / "s", text_posts(60), max_cost=0.02).asked == 0 and len(server.calls) == calls


def test_max_cost_counts_answers_of_a_run_without_prices(tmp_path):
    with FakeEndpoint() as server:
        ask(server, tmp_path / "s", text_posts(30), prices=Prices())
        run = ask(server, tmp_path / "s", text_posts(60), max_cost=charged(server) + 0.0001)
        assert run.stopped and (run.asked, len(server.calls)) == (0, 30)


@pytest.mark.parametrize("fault", ["hang", "half", "not json"])
def test_max_cost_counts_calls_that_may_have_been_charged(tmp_path, fault):
    bounds = Limits(4, timeout=0.3, attempts=3, backoff=0.01)
    with FakeEndpoint(fault=lambda said, attempt: fault) as server:
        run = ask(server, tmp_path / "s", text_posts(9), bounds, max_cost=0.01)
        each = run.unpriced / len(server.calls)
        assert run.stopped and run.asked == 0 and 0.01 - each < run.unpriced <= 0.01
        calls = len(server.calls)
        assert ask(server, tmp_path / "s", text_posts(9), bounds, max_cost=0.01).stopped and len(server.calls) == calls


@pytest.mark.parametrize(
    ("base", "tile", "wasted"), [(85, 170, 2), (2833, 5667, 2), (0, 0, 4)], ids=["gpt-4o", "gpt-4o-mini", "free"]
)
def test_max_cost_holds_however_images_are_counted(tmp_path, base, tile, wasted):
    sizes = [(300, 300), (512, 512), (768, 768), (700, 100)]
    posts = image_posts(tmp_path, 40, sizes)
    usage = counting(200 + base, tile)
    most = (200 + base + 2 * tile) * PRICES.input / 1e6 * 12
    with FakeEndpoint(usage=usage, delay=0.02) as server:
        run = ask(server, tmp_path / "s", posts, images=tmp_path, max_cost=most)
    assert run.stopped and most / wasted < run.spent <= most


def test_a_run_stops_after_ten_refused_posts_in_a_row(tmp_path):
    with FakeEndpoint(fault=lambda said, attempt: "400") as server:
        with pytest.raises(InputError, match=r"10 posts in a row got no answer .*against the rules"):
            ask(server, tmp_path / "s", text_posts(200), Limits(4, backoff=0.01))
        assert len(server.calls) < 20


def test_a_revoked_key_ends_the_run_and_loses_no_answer(tmp_path, monkeypatch):
    with FakeEndpoint(delay=0.1) as server:
        monkeypatch.setattr(server, "_fault", lambda said, attempt: "401" if len(server.calls) > 40 else None)
        with pytest.raises(InputError, match="denies access"):
            ask(server, tmp_path / "s", text_posts(100), Limits(8, backoff=0.01))
    assert len(rows_of(tmp_path / "s")) == len(server.answered) >= 40


def test_ctrl_c_waits_for_the_calls_in_flight(tmp_path):
    def interrupt():
        while len(server.calls) < 20:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with FakeEndpoint(delay=0.2) as server:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            ask(server, tmp_path / "s", text_posts(2000), Limits(8, backoff=0.01))
        thread.join()
    assert 20 <= len(server.calls) < 200
    assert len(rows_of(tmp_path / "s")) == len(server.calls)


def test_results_are_in_the_posts_order_and_say_why_posts_are_missing(tmp_path):
    def fault(said, attempt):
        return {2: "cut", 4: "filter"}.get(post_number(said))

    posts = text_posts(6)
    with FakeEndpoint(fault=fault) as server:
        job, records = job_for(server), records_of(posts, None)
        run = ask(server, tmp_path / "s", posts)
        with Store(tmp_path / "s") as store:
            outcome = write_results(tmp_path / "cot.jsonl", job, records, run, store)
    assert [row["id"] for row in rows_of(tmp_path / "cot.jsonl")] == ["p0", "p1", "p3", "p5"]
    left = {row["id"]: row["reason"] for row in rows_of(tmp_path / "cot.rejects.jsonl")}
    assert set(left) == {"p2", "p4"} and "cut off" in left["p2"] and "against the rules" in left["p4"]
    assert (outcome.kept, outcome.answers, outcome.left_out) == (4, 4, {"cut": 1, "refused": 1})
    assert outcome.cost == pytest.approx(charged(server)) and outcome.models == {RETURNED: 5}
