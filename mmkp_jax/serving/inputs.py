"""What comes in a request's body: JSON of limited size, texts, and images as `data:` URLs."""

import asyncio
import base64
import binascii
import json
from typing import Any

from starlette.requests import ClientDisconnect, Request

from mmkp_jax.data.image_files import ImageError
from mmkp_jax.data.images import check_aspect, upright_size
from mmkp_jax.data.posts import Record
from mmkp_jax.runtime.json_files import is_deep
from mmkp_jax.serving.refusals import Refusal

BODY_BYTES = 32 << 20
"""Most bytes of a request's body."""
IMAGE_BYTES = 20 << 20
"""Most bytes of an image file."""
TEXT_CHARACTERS = 200_000
"""Most characters of a text."""
BODY_SECONDS = 60.0
"""Longest time in which a body must have come."""

POST_ID = "text"
"""The id of every post, as of `predict --text`: random samples depend on it."""


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object in the body.

    Raises:
        Refusal: it is too large, or no such object; or it is not sent as JSON, as forms of other sites are not.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "the body is not sent as Content-Type: application/json")
    too_large = Refusal(413, f"the body has more than {BODY_BYTES:,} bytes")
    if (length := request.headers.get("content-length", "")).isdecimal() and int(length) > BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {BODY_SECONDS:g} seconds") from None
    except ClientDisconnect:
        raise Refusal(400, "the body is not complete") from None
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not JSON") from None
    if not isinstance(content, dict):
        raise Refusal(400, "the body is not a JSON object")
    if is_deep(content):
        raise Refusal(400, "the body's JSON is nested too deep")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def check_text(value: Any, param: str) -> str:
    """The value if it is a text that can be tokenised.

    Raises:
        Refusal: it is not, or is too long.
    """
    if not isinstance(value, str):
        raise Refusal(400, f"{param} is not a text", param)
    if len(value) > TEXT_CHARACTERS:
        raise Refusal(400, f"{param} has {len(value):,} characters, more than {TEXT_CHARACTERS:,}", param)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Refusal(400, f"{param} holds half a character (a lone surrogate)", param) from None
    return value


def image_bytes(url: Any, param: str) -> bytes:
    """The file in a `data:` URL; nothing is fetched, and no file of this machine is read.

    Raises:
        Refusal: it is another kind of URL, or is damaged or too large.
    """
    if not isinstance(url, str) or url[:5].lower() != "data:":
        scheme = url.partition(":")[0][:20] if isinstance(url, str) and ":" in url else "another"
        message = f"{param} is {scheme!r}, but only data: URLs are read: send the file itself, in base64"
        raise Refusal(400, message, param)
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise Refusal(400, f"{param} is no data: URL in base64", param)
    if len(data) * 3 // 4 > IMAGE_BYTES + 2:
        raise Refusal(413, f"{param} has more than {IMAGE_BYTES:,} bytes", param)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, f"{param} is no valid base64", param) from None


def record_of(text: str, image: bytes | None, param: str) -> Record:
    """A post of a text and an image file's bytes.

    Raises:
        Refusal: the image cannot be used.
    """
    if image is None:
        return Record(POST_ID, text, b"", 0, 0, (), None)
    try:
        width, height = upright_size(image)
        check_aspect(height, width)
    except ImageError as error:
        raise Refusal(400, f"{param}: {error.reason}", param) from None
    return Record(POST_ID, text, image, width, height, (), None)
