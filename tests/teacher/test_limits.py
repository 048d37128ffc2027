import asyncio
import time

import pytest

from mmkp_jax.teacher import limits
from mmkp_jax.teacher.endpoint import Limits
from mmkp_jax.teacher.limits import Throttle
from tests.support.fake_endpoint import FakeEndpoint
from tests.support.teacher_posts import ask, text_posts


@pytest.fixture
def short_minute(monkeypatch):
    """A minute of one second, so that a test can see several of them."""
    monkeypatch.setattr(limits, "MINUTE", 1.0)


def test_the_endpoint_never_gets_more_requests_per_minute(tmp_path, short_minute):
    with FakeEndpoint() as server:
        ask(server, tmp_path / "s", text_posts(130), Limits(32, rpm=50))
    assert server.most_within(0.95) <= 50  # what is evenly spaced here comes in unevenly there
    assert server.calls[-1].time - server.calls[0].time < 60  # but not far fewer; a busy machine is slow by itself


def test_the_endpoint_never_gets_more_tokens_per_minute(tmp_path, short_minute):
    with FakeEndpoint() as server:
        ask(server, tmp_path / "s", text_posts(60), Limits(32, tpm=20_000))
    assert server.calls[-1].time - server.calls[0].time > 0.5
    assert server.most_within(0.95, lambda call: call.tokens + 96) <= 20_000


def test_calls_start_with_one_and_double_until_the_endpoint_is_overloaded():
    async def widths():
        throttle, found = Throttle(64), []
        for _ in range(5):
            found.append(throttle.width)
            for _ in range(throttle.width):
                throttle.answered()
        started = time.monotonic()
        throttle.overloaded(asyncio.get_running_loop().time())
        found.append(throttle.width)
        throttle.overloaded(started - 1)  # of the same trouble
        found.append(throttle.width)
        for _ in range(throttle.width + 1):
            throttle.answered()
        return [*found, throttle.width]

    assert asyncio.run(widths()) == [1, 2, 4, 8, 16, 16, 16, 17]


def test_calls_in_flight_stay_within_the_limit(tmp_path):
    with FakeEndpoint(delay=0.05) as server:
        ask(server, tmp_path / "s", text_posts(200), Limits(12))
    assert server.max_in_flight == 12


def test_calls_become_fewer_where_the_endpoint_is_overloaded(tmp_path):
    with FakeEndpoint(delay=0.03) as server:
        server._fault = lambda said, attempt: "503" if server.in_flight >= 6 else None
        run = ask(server, tmp_path / "s", text_posts(300), Limits(64, attempts=20, backoff=0.01))
    overloaded = sum(call.fault is not None for call in server.calls)
    assert run.asked == 300 and overloaded < 100
