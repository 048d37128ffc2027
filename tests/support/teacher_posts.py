"""Posts and jobs that the teacher's tests share."""

import base64
import dataclasses
import io
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mmkp_jax.data.numbered import records_of
from mmkp_jax.data.posts import Post
from mmkp_jax.teacher.asking import ask_all
from mmkp_jax.teacher.cost import Prices
from mmkp_jax.teacher.endpoint import Endpoint, Limits
from mmkp_jax.teacher.progress import AskState
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.teaching import Job
from mmkp_jax.teacher.templates import EXPLAIN
from tests.data.test_images import random_image, saved
from tests.support.fake_endpoint import (
    FAULTS,
    HOSTILE_AGAIN,
    HOSTILE_ANSWERED,
    HOSTILE_FINAL,
    MODEL,
    USAGES,
    FakeEndpoint,
)

PRICES = Prices(2.5, 10.0)
LIMITS = Limits(concurrency=32, timeout=10.0, attempts=6, backoff=0.02)


def text_posts(count: int) -> list[Post]:
    """Posts without images, each of its own text."""
    return [Post(f"p{n}", f"text {n}", None, ("snow", f"key {n}"), None, "posts.jsonl", n + 1) for n in range(count)]


def image_posts(folder: Path, count: int, sizes: Sequence[tuple[int, int]]) -> list[Post]:
    """Posts with images of these sizes, in turn, written to `folder`."""
    for n, size in enumerate(sizes):
        (folder / f"{n}.png").write_bytes(saved(random_image(*size, seed=n)))
    return [dataclasses.replace(post, image=f"{n % len(sizes)}.png") for n, post in enumerate(text_posts(count))]


def counting(base: int, tile: int) -> Callable[[dict[str, Any]], dict[str, int]]:
    """The usage that an endpoint reports for a request with an image, with tiles counted as OpenAI does."""

    def usage(body: dict[str, Any]) -> dict[str, int]:
        _, image = body["messages"][-1]["content"]
        width, height = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].partition(",")[2]))).size
        tiles = -(-width // 512) * -(-height // 512)
        prompt = base + tile * tiles
        return {"prompt_tokens": prompt, "completion_tokens": 5, "total_tokens": prompt + 5}

    return usage


def post_number(said: str) -> int:
    """Number of the post that a request for an explanation is about."""
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
) -> AskState:
    """Asks about all posts, with the store in `file`."""
    job = job_for(server)
    with Store(file) as store:
        options = {"limits": limits, "prices": PRICES} | options
        return ask_all(len(posts), job.question_of(records_of(posts, images)), job.endpoint, store, **options)


def faults(share: float, kinds: Sequence[str], first: int = 1) -> Callable[[str, int], str | None]:
    """A fault of one of these kinds for a share of the posts, always the same ones, at their first `first` attempts."""

    def fault(said: str, attempt: int) -> str | None:
        drawn = random.Random(said)
        return drawn.choice(kinds) if drawn.random() < share and attempt <= first else None

    return fault


HOSTILE: dict[str | None, str] = {
    **dict.fromkeys([*HOSTILE_ANSWERED, *USAGES], "answered"),
    **dict.fromkeys([*FAULTS, *HOSTILE_AGAIN, "hang"], "answered"),  # after an attempt or two
    **dict.fromkeys(HOSTILE_FINAL, "unfinished"),
    **{"no choices, usage always": "empty", "400": "refused", "filter": "refused", "filtered": "filtered"},
    **{"cut": "cut", "declined": "declined", "empty": "empty", None: "answered"},
}
"""Everything that an endpoint can do to a post, and the resulting status; posts answered at once come first."""


def hostile_kind(number: int) -> str | None:
    """The kind of fault for a post."""
    return list(HOSTILE)[number % len(HOSTILE)]


def hostile(said: str, attempt: int) -> str | None:
    """The fault of a call to an endpoint with all kinds of faults."""
    kind = hostile_kind(post_number(said))
    if kind in (*FAULTS, *HOSTILE_AGAIN):
        return kind if attempt <= 1 + post_number(said) % 2 else None
    return kind.removesuffix(" always") if kind else None


def charged(server: FakeEndpoint) -> float:
    """Cost of all calls by the endpoint's own count."""
    prompt, completion = server.tokens()
    return (prompt * PRICES.input + completion * PRICES.output) / 1e6
