"""The flags of every command that asks an endpoint."""

import argparse
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mmkp_jax.data.numbered import Numbered, records_of
from mmkp_jax.data.posts import Post, Record
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.files import CMKP_ENDING
from mmkp_jax.teacher.bodies import NotJson, read_body
from mmkp_jax.teacher.cost import Prices
from mmkp_jax.teacher.endpoint import Endpoint, Limits
from mmkp_jax.teacher.questions import IMAGE_EDGE

GIVE_UP_AFTER = 20
"""Answers of no use, before the first one that is of use."""
_AT_LEAST = {
    "max_tokens": 1,
    "image_edge": 28,
    "concurrency": 1,
    "rpm": 1,
    "tpm": 1,
    "timeout": 1,
    "attempts": 1,
    "price_in": 0,
    "price_out": 0,
    "max_cost": 0,
    "temperature": 0,
    "give_up_after": 0,
}


def add_post_flags(flags: argparse.ArgumentParser) -> None:
    """Adds those that name the posts: a dataset's split, or a file."""
    add = flags.add_argument
    add("--data", type=Path, metavar="DIR", help="a prepared dataset")
    add("--split", metavar="NAME", help="of --data: which of its splits")
    add("--posts", type=Path, metavar="FILE", help=f"or JSON Lines (.jsonl), or CMKP ({{split}}{CMKP_ENDING})")
    add("--images", type=Path, metavar="DIR", help="of --posts: the folder that their images are relative to")


def check_post_flags(parsed: argparse.Namespace, flags: argparse.ArgumentParser) -> None:
    """Refuses what cannot be meant, in `flags.error`'s way."""
    if (parsed.data is None) == (parsed.posts is None):
        flags.error("give one of --data and --posts")
    if (parsed.data is None) != (parsed.split is None):
        flags.error("--data=DIR and --split=NAME go together")
    if parsed.images and not parsed.posts:
        flags.error("--images goes with --posts")
    if parsed.posts and not parsed.posts.name.endswith((".jsonl", CMKP_ENDING)):
        flags.error(f"--posts={parsed.posts} is no .jsonl or {{split}}{CMKP_ENDING}; a dataset goes with --data")


def records_from_flags(parsed: argparse.Namespace, posts: Sequence[Post]) -> Numbered[Record]:
    """The posts with their images: `posts`, which are those of --posts, or the split of --data.

    Raises:
        InputError: there is no such split, or an image is missing.
    """
    if parsed.posts:
        return records_of(posts, parsed.images)
    from mmkp_jax.data.records import open_split  # here, as it takes a second to import

    return open_split(parsed.data, parsed.split)


def add_endpoint_flags(flags: argparse.ArgumentParser, max_tokens: int, but: Collection[str] = ()) -> None:
    """Adds them, in a group of their own.

    Args:
        max_tokens: of an answer, by default.
        but: names of flags that the command has already.
    """
    group = flags.add_argument_group("the endpoint")

    def add(name: str, **options: Any) -> None:
        if name.removeprefix("--") not in but:
            group.add_argument(name, **options)

    add("--base_url", metavar="URL", help="of an OpenAI-compatible endpoint; mostly ends in /v1")
    add("--model", metavar="NAME", help="as the endpoint names it")
    add(
        "--key_env",
        metavar="VARIABLE",
        default="OPENAI_API_KEY",
        help="of the environment: holds the key (%(default)s)",
    )
    add(
        "--max_tokens",
        type=int,
        metavar="N",
        default=max_tokens,
        help="most tokens of an answer (%(default)s); for a model that wants them under the newer name: "
        "--extra_body '{\"max_completion_tokens\": 512}'",
    )
    add("--temperature", type=float, metavar="F", help="of sampling (the endpoint's own)")
    add("--extra_body", type=_object, metavar="JSON", default={}, help="more fields of the request: '{\"top_p\": 0.9}'")
    add(
        "--extra_headers",
        type=_object,
        metavar="JSON",
        default={},
        help="more headers; a value $NAME is taken from the environment",
    )
    add("--image_edge", type=int, metavar="N", default=IMAGE_EDGE, help="pixels a side, at most (%(default)s)")
    add("--concurrency", type=int, metavar="N", default=Limits.concurrency, help="most calls at a time (%(default)s)")
    add("--rpm", type=int, metavar="N", help="most requests in any minute")
    add("--tpm", type=int, metavar="N", help="most tokens in any minute")
    add("--timeout", type=float, metavar="SECONDS", default=Limits.timeout, help="of a call (%(default)g)")
    add("--attempts", type=int, metavar="N", default=Limits.attempts, help="at a call (%(default)s)")
    add("--price_in", type=float, metavar="F", help="of a million tokens of prompts")
    add("--price_out", type=float, metavar="F", help="of a million tokens of answers")
    add(
        "--max_cost",
        type=float,
        metavar="F",
        help="stop, with exit status 3, before the answers in --store cost more than this in all; one that does not "
        "tell its tokens counts with the most it may have",
    )
    add("--store", type=Path, metavar="FILE", help="where every answer is kept, and looked for first (beside --out)")
    add("--retry_refused", action="store_true", help="ask again what the endpoint refused to answer")
    add(
        "--give_up_after",
        type=int,
        metavar="N",
        default=GIVE_UP_AFTER,
        help="stop when the first N answers are all of no use; 0: never (%(default)s)",
    )
    add("--repair", action="store_true", help="move damaged lines of --store to a file next to it, and keep all others")
    add("--dry_run", action="store_true", help="tell calls, tokens and price, show three prompts, call nobody")


def check_bounds(parsed: argparse.Namespace, flags: argparse.ArgumentParser) -> None:
    """Refuses numbers that are too small, in `flags.error`'s way."""
    for name, least in _AT_LEAST.items():
        value = getattr(parsed, name)
        if value is not None and not least <= value < float("inf"):
            flags.error(f"--{name}={value} is not a number from {least}")


def refuse_flags_except(
    known: Collection[str], parsed: argparse.Namespace, flags: argparse.ArgumentParser, reason: str
) -> None:
    """Refuses every flag that is given and not among `known`, in `flags.error`'s way; `reason` follows its name."""
    for name, value in vars(parsed).items():
        if name not in known and value != flags.get_default(name):
            flags.error(f"--{name} {reason}")


def check_endpoint_flags(parsed: argparse.Namespace, flags: argparse.ArgumentParser) -> None:
    """Refuses what cannot be meant, in `flags.error`'s way."""
    for name in ("base_url", "model"):
        if not getattr(parsed, name):
            flags.error(f"--{name} is not given")
    check_bounds(parsed, flags)
    if (parsed.price_in is None) != (parsed.price_out is None):
        flags.error("--price_in and --price_out go together")
    if parsed.max_cost is not None and parsed.price_in is None:
        flags.error("--max_cost needs --price_in and --price_out")


def refuse_endpoint_flags(parsed: argparse.Namespace, flags: argparse.ArgumentParser, but: Collection[str]) -> None:
    """Refuses each of them that is given without an endpoint, in `flags.error`'s way.

    Args:
        but: names of flags that mean something without one too.
    """
    endpoints = argparse.ArgumentParser()
    add_endpoint_flags(endpoints, 0)
    others = vars(parsed).keys() - vars(endpoints.parse_args([])).keys()
    refuse_flags_except({*others, *but}, parsed, flags, "goes with --base_url")


def endpoint_of(parsed: argparse.Namespace) -> Endpoint:
    """The endpoint that the flags name.

    Raises:
        InputError: it is not one, or the environment lacks a header's value.
    """
    told: dict[str, Any] = {"max_tokens": parsed.max_tokens}
    if "max_completion_tokens" in parsed.extra_body:  # what newer models call it
        told = {}
    if parsed.temperature is not None:
        told["temperature"] = parsed.temperature
    given = {name: str(value) for name, value in parsed.extra_headers.items()}
    headers = {name: _from_environment(name, value) for name, value in given.items()}
    secrets = [headers[name] for name, value in given.items() if value.startswith("$")]
    return Endpoint(parsed.base_url, parsed.model, told | parsed.extra_body, headers, secrets, parsed.key_env)


def limits_of(parsed: argparse.Namespace) -> Limits:
    """What the endpoint is asked to bear."""
    return Limits(parsed.concurrency, parsed.rpm, parsed.tpm, parsed.timeout, parsed.attempts)


def prices_of(parsed: argparse.Namespace) -> Prices:
    """What tokens cost."""
    return Prices(parsed.price_in, parsed.price_out)


def _object(text: str) -> dict[str, Any]:
    try:
        told = read_body(text.encode())
    except (NotJson, UnicodeEncodeError):
        told = None
    if told is None:
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object, such as {{"name": "value"}}')
    return told


def _from_environment(header: str, value: str) -> str:
    if not value.startswith("$"):
        return value
    if found := os.environ.get(value[1:]):
        return found
    raise InputError(f"the environment holds no value for the header {header}", value[1:], "export it")
