"""Damage to files and answers, by a seed: bytes flipped, cut, doubled, spliced; JSON with values of other kinds."""

import gzip
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

TOKENS = [
    *(
        b"<sep>",
        b";",
        b"\r",
        b"\n",
        b"\r\n",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xc3\x28",
        b"\xe2\x80\xa8",
        b"\x1b[2J",
    ),
    *(b"<think>", b"</think>", b"<answer>", b"</answer>", b"<|im_end|>", b"<|image_pad|>", b"<image>", b"</script>"),
    *(
        b"1e999",
        b"-1",
        b"NaN",
        b"Infinity",
        b"-0",
        b"1" * 5000,
        b"10" + b"0" * 400,
        b"null",
        b"true",
        b'""',
        b"\\ud800",
    ),
    *(b"[" * 20_000, b'{"a":' * 20_000, b"../../etc/passwd", b"gs://bucket/x", b"file:///x", b"https://x/y.jpg"),
    *(b"a" * 300, b"a" * 100_000, "é́ﬁ\u202e\u2066".encode(), "e\u0301".encode(), b"\xed\xa0\x80"),
]

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -(10**25), 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", " ", "\x00", "\ud800", "\x1b]0;x\x07", "a\nb", "\u202ea", "a" * 300, "../x", "/x", "gs://b/x", "12", "nan"),
    *("<think>x</think>", "</answer>", "<think>a</think><answer>b</answer>", "a; b", "; ;", "x" * 70_000),
    *([], [[]], [None], ["a", 1], [{}], {}, {"a": 1}, {"": None}, {"type": "image"}),
]


def mutated(corpus: Sequence[bytes], rng: random.Random) -> bytes:
    """One of the corpus, damaged in one to four ways; now and then as it is."""
    data = rng.choice(corpus)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4))):
        data = rng.choice(_DAMAGES)(data, corpus, rng)
    return data[: 4 << 20]


def as_gzip(data: bytes, rng: random.Random) -> bytes:
    """Data packed, and one time in three damaged after that."""
    packed = gzip.compress(data, 1, mtime=0)
    return _flipped(packed, [packed], rng) if rng.random() < 0.3 else packed


def _flipped(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _without(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def _doubled(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 20)) + data[end:]


def _spliced(data: bytes, corpus: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(corpus)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _with_token(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(TOKENS) + data[place:]


def _with_noise(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.choice((1, 4, 64, 1000))) + data[place:]


def _other_json(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    """A value of the JSON, or of a line of it, replaced, renamed, taken out, or nested; other data unchanged."""
    lines = data.split(b"\n")
    for text, place in ((data, None), *((lines[n], n) for n in [rng.randrange(len(lines))])):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        try:
            text = json.dumps(_changed(value, rng), ensure_ascii=rng.random() < 0.8)
        except RecursionError:  # nested several times over
            return data
        changed = text.encode("utf-8", "surrogatepass")
        return changed if place is None else b"\n".join([*lines[:place], changed, *lines[place + 1 :]])
    return data


def _changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        copy = dict(value) if isinstance(value, dict) else list(value)
        match rng.randrange(8):
            case 0:
                del copy[key]
            case 1 if isinstance(copy, dict):
                copy[rng.choice(("", "id", "type", "x", key + " "))] = copy.pop(key)
            case 1 | 2 if isinstance(copy, list):
                copy.insert(key, copy[key])
            case _:
                copy[key] = _changed(copy[key], rng)
        return copy
    if rng.random() < 0.1:
        for _ in range(rng.choice((1, 50, 900))):
            value = [value] if rng.random() < 0.5 else {"a": value}
        return value
    return rng.choice(VALUES)


_DAMAGES: list[Callable[[bytes, Sequence[bytes], random.Random], bytes]] = [
    *(_flipped, _flipped, _cut, _without, _doubled, _spliced, _with_token, _with_token, _with_noise),
    *[_other_json] * 8,
]
