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
"""Rejected answers, before the first usable one, after which the command stops."""
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
    """Adds the flags that name the posts: a dataset's split, or a file."""
    add = flags.add_argument
    add("--data", type=Path, metavar="DIR", help="a prepared dataset")
    add("--split", metavar="NAME", help="the split of --data")
    add("--posts", type=Path, metavar="FILE", help=f"or JSON Lines (.jsonl), or CMKP ({{split}}{CMKP_ENDING})")
    add("--images", type=Path, metavar="DIR", help="the folder that image paths in --posts are relative to")


def check_post_flags(parsed: argparse.Namespace, flags: argparse.ArgumentParser) -> None:
    """Refuses contradictory flags of posts, by `flags.error`."""
    if (parsed.data is None) == (parsed.posts is None):
        flags.error("give one of --data and --posts")
    if (parsed.data is None) != (parsed.split is None):
        flags.error("--data=DIR and --split=NAME go together")
    if parsed.images and not parsed.posts:
        flags.error("--images goes with --posts")
    if parsed.posts and not parsed.posts.name.endswith((".jsonl", CMKP_ENDING)):
        flags.error(f"--posts={parsed.posts} is not a .jsonl or {{split}}{CMKP_ENDING} file; give a dataset as --data")


def records_from_flags(parsed: argparse.Namespace, posts: Sequence[Post]) -> Numbered[Record]:
    """Returns the posts with their images: `posts` as read from --posts, or the split of --data.

    Raises:
        InputError: there is no such split, or an image is missing.
    """
    if parsed.posts:
        return records_of(posts, parsed.images)
    from mmkp_jax.data.records import open_split  # here, as it takes a second to import

    return open_split(parsed.data, parsed.split)


def add_endpoint_flags(flags: argparse.ArgumentParser, max_tokens: int, skip: Collection[str] = ()) -> None:
    """Adds the flags of an endpoint, in a group of their own.

    Args:
        max_tokens: default of --max_tokens.
        skip: names of flags that the command has already.
    """
    group = flags.add_argument_group("the endpoint")

    def add(name: str, **options: Any) -> None:
        if name.removeprefix("--") not in skip:
            group.add_argument(name, **options)

    add("--base_url", metavar="URL", help="an OpenAI-compatible endpoint; usually ends in /v1")
    add("--model", metavar="NAME", help="the model, as the endpoint names it")
    add(
        "--key_env",
        metavar="VARIABLE",
        default="OPENAI_API_KEY",
        help="environment variable that holds the key (%(default)s)",
    )
    add(
        "--max_tokens",
        type=int,
        metavar="N",
        default=max_tokens,
        help="most tokens of an answer (%(default)s); for a model that wants them under the newer name: "
        "--extra_body '{\"max_completion_tokens\": 512}'",
    )
    add("--temperature", type=float, metavar="F", help="of sampling (the endpoint's default)")
    add("--extra_body", type=_object, metavar="JSON", default={}, help="more fields of the request: '{\"top_p\": 0.9}'")
    add(
        "--extra_headers",
        type=_object,
        metavar="JSON",
        default={},
        help="more headers; a value $NAME is taken from the environment",
    )
    add("--image_edge", type=int, metavar="N", default=IMAGE_EDGE, help="most pixels a side of an image (%(default)s)")
    add("--concurrency", type=int, metavar="N", default=Limits.concurrency, help="most calls in flight (%(default)s)")
    add("--rpm", type=int, metavar="N", help="most requests per minute")
    add("--tpm", type=int, metavar="N", help="most tokens per minute")
    add("--timeout", type=float, metavar="SECONDS", default=Limits.timeout, help="timeout of a call (%(default)g)")
    add("--attempts", type=int, metavar="N", default=Limits.attempts, help="most attempts at a call (%(default)s)")
    add("--price_in", type=float, metavar="F", help="price of a million prompt tokens")
    add("--price_out", type=float, metavar="F", help="price of a million answer tokens")
    add(
        "--max_cost",
        type=float,
        metavar="F",
        help="stop, with exit status 3, before the answers in --store cost more than this in all; one that does not "
        "report its tokens counts with the most it may have",
    )
    add("--store", type=Path, metavar="FILE", help="file of all answers, which are reused from it (next to --out)")
    add("--retry_refused", action="store_true", help="ask again what the endpoint refused to answer")
    add(
        "--give_up_after",
        type=int,
        metavar="N",
        default=GIVE_UP_AFTER,
        help="stop when the first N answers are all rejected; 0: never (%(default)s)",
    )
    add("--repair", action="store_true", help="move damaged lines of --store to a file next to it, and keep all others")
    add("--dry_run", action="store_true", help="print calls, tokens, price and three prompts; send nothing")


def check_bounds(parsed: argparse.Namespace, flags: argparse.ArgumentParser) -> None:
    """Refuses numbers that are too small, by `flags.error`."""
    for name, least in _AT_LEAST.items():
        value = getattr(parsed, name)
        if value is not None and not least <= value < float("inf"):
            flags.error(f"--{name}={value} is not a number from {least}")


def refuse_flags_except(
    allowed: Collection[str], parsed: argparse.Namespace, flags: argparse.ArgumentParser, reason: str
) -> None:
    """Refuses every given flag that is not in `allowed`, by `flags.error`; `reason` follows its name."""
    for name, value in vars(parsed).items():
        if name not in allowed and value != flags.get_default(name):
            flags.error(f"--{name} {reason}")


def check_endpoint_flags(parsed: argparse.Namespace, flags: argparse.ArgumentParser) -> None:
    """Refuses missing or contradictory flags of an endpoint, by `flags.error`."""
    for name in ("base_url", "model"):
        if not getattr(parsed, name):
            flags.error(f"--{name} is not given")
    check_bounds(parsed, flags)
    if (parsed.price_in is None) != (parsed.price_out is None):
        flags.error("--price_in and --price_out go together")
    if parsed.max_cost is not None and parsed.price_in is None:
        flags.error("--max_cost needs --price_in and --price_out")


def refuse_endpoint_flags(parsed: argparse.Namespace, flags: argparse.ArgumentParser, allowed: Collection[str]) -> None:
    """Refuses flags of an endpoint where none is given, by `flags.error`.

    Args:
        allowed: names of flags that are valid without an endpoint too.
    """
    endpoints = argparse.ArgumentParser()
    add_endpoint_flags(endpoints, 0)
    others = vars(parsed).keys() - vars(endpoints.parse_args([])).keys()
    refuse_flags_except({*others, *allowed}, parsed, flags, "goes with --base_url")


def endpoint_of(parsed: argparse.Namespace) -> Endpoint:
    """Builds the endpoint that the flags describe.

    Raises:
        InputError: it is invalid, or the environment lacks a header's value.
    """
    parameters: dict[str, Any] = {"max_tokens": parsed.max_tokens}
    if "max_completion_tokens" in parsed.extra_body:  # what newer models call it
        parameters = {}
    if parsed.temperature is not None:
        parameters["temperature"] = parsed.temperature
    given = {name: str(value) for name, value in parsed.extra_headers.items()}
    headers = {name: _from_environment(name, value) for name, value in given.items()}
    secrets = [headers[name] for name, value in given.items() if value.startswith("$")]
    return Endpoint(parsed.base_url, parsed.model, parameters | parsed.extra_body, headers, secrets, parsed.key_env)


def limits_of(parsed: argparse.Namespace) -> Limits:
    """Limits of the endpoint's load, from the flags."""
    return Limits(parsed.concurrency, parsed.rpm, parsed.tpm, parsed.timeout, parsed.attempts)


def prices_of(parsed: argparse.Namespace) -> Prices:
    """Prices of tokens, from the flags."""
    return Prices(parsed.price_in, parsed.price_out)


def _object(text: str) -> dict[str, Any]:
    try:
        return read_body(text.encode())
    except (NotJson, UnicodeEncodeError):
        raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object such as {{"name": "value"}}') from None


def _from_environment(header: str, value: str) -> str:
    if not value.startswith("$"):
        return value
    if found := os.environ.get(value[1:]):
        return found
    raise InputError(f"the environment holds no value for the header {header}", value[1:], "export it")
