import dataclasses
import json

import pytest

from mmkp_jax.data.numbered import records_of
from mmkp_jax.errors import InputError
from mmkp_jax.teacher.answers import verdict
from mmkp_jax.teacher.batch import ask_in_batches
from mmkp_jax.teacher.endpoint import Limits
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.templates import EXPLAIN, Template
from tests.support.fake_endpoint import HOSTILE_FINAL, USAGES, FakeEndpoint
from tests.support.teacher_posts import PRICES, ask, charged, counting, image_posts, job_for, post_number, text_posts


def batched(server, file, posts, job=None, images=None, **options):
    job = job or job_for(server)
    with Store(file) as store:
        options = {"prices": PRICES, "poll_every": 0.05, "limits": Limits(attempts=2, backoff=0.01)} | options
        return ask_in_batches(
            len(posts), job.question_of(records_of(posts, images)), job.endpoint, store, **options
        ), store.spent


def test_batches_answer_what_single_calls_would(tmp_path):
    posts = text_posts(25)
    with FakeEndpoint() as server:
        run, spent = batched(server, tmp_path / "s", posts, most=10)
        assert (run.asked, len(server.batches)) == (25, 3) and spent == pytest.approx(charged(server))
        assert ask(server, tmp_path / "s", posts).found == 25  # one store for both
        assert len(server.calls) == 25
    assert [each.name for each in tmp_path.iterdir()] == ["s"]  # no file of requests is left


def test_an_expired_batch_gives_what_it_has_and_the_rest_is_asked_again(tmp_path):
    def fault(said, attempt):
        return "expired" if post_number(said) % 3 == 0 and attempt == 1 else "400" if post_number(said) == 7 else None

    with FakeEndpoint(fault=fault) as server:
        run, _ = batched(server, tmp_path / "s", text_posts(12))
        assert run.asked == 8 and sorted(run.unavailable) == [0, 3, 6, 9] and "expired" in run.unavailable[0]
        run, spent = batched(server, tmp_path / "s", text_posts(12))
        assert (run.found, run.asked, run.unavailable) == (8, 4, {})
        assert max(server.answered.values()) == 1 and spent == pytest.approx(charged(server))


def test_an_unreadable_result_is_counted_and_asked_again(tmp_path):
    def fault(said, attempt):
        return "not json" if post_number(said) == 2 and attempt == 1 else None

    with FakeEndpoint(fault=fault) as server:
        run, _ = batched(server, tmp_path / "s", text_posts(5))
        assert (run.asked, run.lost, list(run.unavailable)) == (4, 1, [2])
        assert batched(server, tmp_path / "s", text_posts(5))[0].asked == 1


@pytest.mark.parametrize("state", ["submitted", "collected"])
def test_a_batch_is_not_sent_twice_whenever_the_command_dies(tmp_path, monkeypatch, state):
    keep = Store.add

    async def dying(self, row):
        if row.get("state") == state:  # before it is on the disk
            raise KeyboardInterrupt
        await keep(self, row)

    with FakeEndpoint(batch_polls=2) as server:
        monkeypatch.setattr(Store, "add", dying)
        with pytest.raises(KeyboardInterrupt):
            batched(server, tmp_path / "s", text_posts(6))
        monkeypatch.setattr(Store, "add", keep)
        run, _ = batched(server, tmp_path / "s", text_posts(6))
    assert len(server.batches) == 1 and max(server.answered.values()) == 1 and run.found + run.asked == 6


def killed_after_submitting(server, file, posts, monkeypatch):
    keep = Store.add

    async def dying(self, row):
        await keep(self, row)
        if row.get("state") == "submitted":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "add", dying)
        with pytest.raises(KeyboardInterrupt):
            batched(server, file, posts)


def test_a_batch_is_collected_completely_though_fewer_posts_are_asked_about(tmp_path, monkeypatch):
    with FakeEndpoint(batch_polls=2) as server:
        killed_after_submitting(server, tmp_path / "s", text_posts(10), monkeypatch)
        run, spent = batched(server, tmp_path / "s", text_posts(6), max_cost=1)
        assert (run.asked, run.done) == (6, 6) and spent == pytest.approx(charged(server))
        run, _ = batched(server, tmp_path / "s", text_posts(10))
        assert (run.found, run.asked, len(server.calls)) == (10, 0, 10)


@pytest.mark.parametrize("other", ["max_tokens", "template"])
def test_a_batch_is_collected_though_another_question_is_asked_now(tmp_path, monkeypatch, other):
    with FakeEndpoint(batch_polls=2) as server:
        killed_after_submitting(server, tmp_path / "s", text_posts(4), monkeypatch)
        job = job_for(server)
        endpoint = dataclasses.replace(job.endpoint, parameters={"max_tokens": 200})
        changed = {"max_tokens": {"endpoint": endpoint}, "template": {"template": Template("", EXPLAIN.user)}}[other]
        run, _ = batched(server, tmp_path / "s", text_posts(4), dataclasses.replace(job, **changed), max_cost=1)
        assert (run.asked, len(server.calls)) == (4, 8)
        run, _ = batched(server, tmp_path / "s", text_posts(4))
        assert (run.found, run.asked, len(server.calls)) == (4, 0, 8)  # what was paid for is there


@pytest.mark.parametrize("fault", [*HOSTILE_FINAL, "no choices, usage", *USAGES])
def test_answers_of_a_batch_get_the_same_verdicts_as_single_calls(tmp_path, fault):
    with FakeEndpoint(fault=lambda said, attempt: fault if post_number(said) == 1 else None) as server:
        run, _ = batched(server, tmp_path / "s", text_posts(3))
        again, _ = batched(server, tmp_path / "s", text_posts(3))
        assert (run.asked, again.found, len(server.calls)) == (3, 3, 3)
    with Store(tmp_path / "s") as store:
        status = verdict(store.get(run.keys[1])["answer"])[0]
        assert (fault in USAGES) == (status == "answered") == (store.implausible == 1)


HOSTILE_ROWS = [
    b"[" * 100_000,
    b"[]",
    b'{"custom_id": [1]}',
    b'{"custom_id": "KEY", "response": [1]}',
    b'{"custom_id": "KEY", "response": {"status_code": [], "body": 5}}',
    b'{"custom_id": "KEY", "response": {"status_code": 1e999, "body": {"error": {"code": [1]}}}}',
    b'{"custom_id": "KEY", "error": [[1]]}',
    b'{"custom_id": "KEY", "response": {"status_code": 200, "body": {"choices": 5}}}',
    b'{"custom_id": "KEY", "response": {"status_code": 200, "body": []}}',
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("line", HOSTILE_ROWS)
def test_an_invalid_line_of_results_costs_one_answer_at_most(tmp_path, monkeypatch, line):
    with FakeEndpoint() as server:
        make = server._make_batch

        def damaged(response):
            batch = make(response)
            first, *rest = batch.output.splitlines()
            key = json.loads(first)["custom_id"].encode()
            batch.output = b"\n".join([line.replace(b"KEY", key), *rest])
            return batch

        monkeypatch.setattr(server, "_make_batch", damaged)
        run, spent = batched(server, tmp_path / "s", text_posts(3))
        assert run.asked == 2 and len(run.unavailable) == 1
        assert spent + run.unpriced >= charged(server) * (1 - 1e-9) or b"response" in line or b"error" in line


@pytest.mark.parametrize("response", [b"[]", b"x", b"{}", b'{"id": 5}', b'{"id": null, "status": [1]}'])
def test_an_unexpected_answer_of_the_batch_api_is_one_line(tmp_path, monkeypatch, response):
    with FakeEndpoint() as server:
        monkeypatch.setattr(server, "_batch_api", lambda *_: response)
        with pytest.raises(InputError, match="Batch API does not answer"):
            batched(server, tmp_path / "s", text_posts(3))


def test_a_failed_batch_is_one_line_with_its_reason(tmp_path):
    with FakeEndpoint(batch_failure="Enqueued token limit reached") as server:
        with pytest.raises(InputError, match=r"refused a batch .Enqueued token limit reached"):
            batched(server, tmp_path / "s", text_posts(3))
        server.batch_failure = None
        assert batched(server, tmp_path / "s", text_posts(3))[0].asked == 3


def test_max_cost_bounds_what_is_submitted(tmp_path):
    with FakeEndpoint() as server:
        run, spent = batched(server, tmp_path / "s", text_posts(50), max_cost=0.02)
    assert run.stopped and 0 < len(server.calls) < 50 and spent <= 0.02


def test_max_cost_holds_however_images_are_counted(tmp_path):
    posts = image_posts(tmp_path, 40, [(300, 300), (768, 768)])
    most = 0.4  # of some 40 x 0.045
    with FakeEndpoint(usage=counting(3033, 5667)) as server:  # as gpt-4o-mini
        run, spent = batched(server, tmp_path / "s", posts, images=tmp_path, max_cost=most)
        assert run.stopped and most / 3 < spent <= most
        calls = len(server.calls)
        again, _ = batched(server, tmp_path / "s", posts, images=tmp_path, max_cost=spent)
        assert (again.found, again.asked, len(server.calls)) == (run.asked, 0, calls)
