"""Readers of an endpoint's answers, of the store that keeps them, and of what people and judges rank."""

import functools
import json
import os
from pathlib import Path

from mmkp_jax.data.posts import Record
from mmkp_jax.errors import InputError
from mmkp_jax.judging.people import KEY, read_people
from mmkp_jax.judging.ranking import Unreadable, read_better, read_rankings, read_ranks
from mmkp_jax.teacher.answers import answer_row, content_of, verdict
from mmkp_jax.teacher.chains import Gates, Rejected
from mmkp_jax.teacher.client import Client
from mmkp_jax.teacher.cost import Prices, Usage, usage_of
from mmkp_jax.teacher.endpoint import Endpoint, Limits
from mmkp_jax.teacher.faults import Refused, Retryable, retry_after
from mmkp_jax.teacher.questions import Request
from mmkp_jax.teacher.store import Store, encoded
from tests.fuzz.harness import Target
from tests.fuzz.targets_posts import lines_of

ANSWER = {
    "id": "x",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "It snows."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 120, "completion_tokens": 10, "total_tokens": 130},
}
ERROR = {"error": {"message": "overloaded", "type": "server_error", "code": 502, "param": None}}
ROWS = [
    {
        "id": "a",
        "key": f"k{n}",
        "asked": {"model": "m"},
        "status": "answered",
        "reason": None,
        "answer": ANSWER,
        "usage": {"prompt": 120, "completion": 10},
        "most": {"prompt": 200, "completion": 100},
        "cost": 0.01,
        "finish_reason": "stop",
        "attempt": 1,
        "time": "2026-01-01T00:00:00Z",
    }
    for n in range(2)
]
RECORD = Record("a", "snow in the city", b"", 0, 0, ("snow", "winter"), None)
SYSTEMS = ["x", "y"]
SAVED = {
    "study": "s",
    "sheet": 1,
    "ranks": {"a": {c: {"A": 1, "B": 2} for c in ("correctness", "relevance", "usefulness")}},
}
SHEETS = {"study": "s", "systems": SYSTEMS, "posts": ["a"], "sheets": {"1": {"a": [0, 1]}}}


@functools.cache
def _client() -> Client:
    os.environ.setdefault("OPENAI_API_KEY", "fuzzing-key")
    return Client(Endpoint("http://127.0.0.1:9/v1", "m"), Limits())


def _read_answer(data: bytes, _: Path) -> None:
    body = _client().parse_answer(data)
    most = Usage(200, 100)
    usage = usage_of(body, most)
    assert usage is None or (usage.prompt > 0 and usage.completion >= 0)
    row = json.loads(encoded(answer_row(Request("a", {}), body, most, Prices(1.0, 2.0))))
    if verdict(row["answer"])[0] == "answered":
        assert content_of(row).encode() is not None
    assert row["reason"].isprintable()


def _read_header(data: bytes, _: Path) -> None:
    seconds = retry_after({"retry-after": data.decode("latin-1"), "retry-after-ms": ""})
    assert seconds is None or seconds >= 0
    retry_after({"retry-after-ms": data.decode("latin-1")})


def _read_store(data: bytes, root: Path) -> None:
    (root / "store.jsonl").write_bytes(data)
    with Store(root / "store.jsonl") as store:
        assert store.spent >= 0
        for key in ("k0", "k1"):
            store.get(key)


def _chain(data: bytes, _: Path) -> None:
    text = data.decode("utf-8", "replace")
    chain = Gates(mentions="any").chain(text, RECORD)
    assert "<think>" not in chain and "<answer>" not in chain


def _ranks(data: bytes, _: Path) -> None:
    text = data.decode("utf-8", "replace")
    try:
        read_ranks(text, 2)
    except Unreadable:
        read_better(text)


def _rankings(data: bytes, root: Path) -> None:
    (root / "ranks.jsonl").write_bytes(data)
    read_rankings(root / "ranks.jsonl", SYSTEMS)


def _people(name: str):
    def feed(data: bytes, root: Path) -> None:
        for file, content in ((KEY, SHEETS), ("ranks-1.json", SAVED)):
            (root / file).write_bytes(data if file == name else json.dumps(content).encode())
        read_people(root, [root / "ranks-1.json"])

    return lambda _: [json.dumps(SHEETS if name == KEY else SAVED).encode()], feed


RANKED = {
    "id": "a",
    "order": 0,
    "ranks": {s: dict.fromkeys(("correctness", "relevance", "usefulness"), 1) for s in SYSTEMS},
}

TARGETS = [
    Target(
        "endpoint: answers",
        lambda _: [json.dumps(ANSWER).encode(), json.dumps(ERROR).encode()],
        _read_answer,
        refusals=(InputError, Retryable, Refused),
    ),
    Target("endpoint: Retry-After", lambda _: [b"12", b"Wed, 21 Oct 2026 07:28:00 GMT", b"0.5"], _read_header),
    Target("teacher: the store", lambda _: [lines_of(ROWS)], _read_store, share=2),
    Target(
        "teacher: chains",
        lambda _: [
            b"It snows, so winter.",
            b"<think>snow</think>",
            b"ok.\n</think>\n\nsnow",
            b"<answer>snow; winter</answer>",
        ],
        _chain,
        refusals=(Rejected,),
    ),
    Target(
        "judge: answers",
        lambda _: [
            json.dumps({c: {"A": 1, "B": 2} for c in ("correctness", "relevance", "usefulness")}).encode(),
            b'{"better": "A"}',
        ],
        _ranks,
        refusals=(Unreadable,),
    ),
    Target("judge: rankings", lambda _: [lines_of([RANKED])], _rankings),
    Target("people: key.json", *_people(KEY)),
    Target("people: ranks", *_people("ranks-1.json")),
]
