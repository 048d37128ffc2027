"""Posts and jobs that the tests of the teacher share."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from mmkp_jax.data.posts import Post
from mmkp_jax.teacher.asking import ask_all
from mmkp_jax.teacher.cost import Prices
from mmkp_jax.teacher.endpoint import Endpoint, Limits
from mmkp_jax.teacher.progress import Run
from mmkp_jax.teacher.questions import PostRecords
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.teaching import Job
from mmkp_jax.teacher.templates import EXPLAIN
from tests.fake_endpoint import MODEL, FakeEndpoint

PRICES = Prices(2.5, 10.0)
LIMITS = Limits(concurrency=32, timeout=10.0, attempts=6, backoff=0.02)


def text_posts(count: int) -> list[Post]:
    """Posts without images, each of its own text."""
    return [Post(f"p{n}", f"text {n}", None, ("snow", f"key {n}"), None, "posts.jsonl", n + 1) for n in range(count)]


def number_of(said: str) -> int:
    """Of the post that a request to explain is about."""
    return int(said.partition("Post text: text ")[2].split()[0])


def job_for(server: FakeEndpoint, **fields) -> Job:
    return Job(Endpoint(server.base_url, MODEL, {"max_tokens": 100}), EXPLAIN, **fields)


def ask(
    server: FakeEndpoint,
    file: Path,
    posts: Sequence[Post],
    limits: Limits = LIMITS,
    images: Path | None = None,
    **options,
) -> Run:
    """Asks about all posts, with the store in `file`."""
    job = job_for(server)
    with Store(file) as store:
        options = {"limits": limits, "prices": PRICES} | options
        return ask_all(len(posts), job.question_of(PostRecords(posts, images)), job.endpoint, store, **options)


def faults(share: float, kinds: Sequence[str], first: int = 1) -> Callable[[str, int], str | None]:
    """One of the kinds for this share of posts, at each one's first `first` attempts; always for the same."""

    def fault(said: str, attempt: int) -> str | None:
        drawn = random.Random(said)
        return drawn.choice(kinds) if drawn.random() < share and attempt <= first else None

    return fault


def charged(server: FakeEndpoint) -> float:
    """What the endpoint itself has counted, in money."""
    prompt, completion = server.tokens()
    return (prompt * PRICES.input + completion * PRICES.output) / 1e6
