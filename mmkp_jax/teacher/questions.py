"""From a post to a request: its prompt, its image made small, and the key that its answer is kept under."""

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from mmkp_jax.data.image_files import ImageError, jpeg_url
from mmkp_jax.data.images import decode
from mmkp_jax.data.posts import Record
from mmkp_jax.teacher.cost import Estimate, ImageTokens, PromptTokens, estimate, image_tokens
from mmkp_jax.teacher.endpoint import Endpoint
from mmkp_jax.teacher.templates import IMAGE, Template

IMAGE_EDGE = 768
"""Pixels: what OpenAI shrinks the shorter side of an image to."""
JPEG_QUALITY = 90


class Unaskable(Exception):
    """A post that no request can be made of; nothing is sent."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What an answer is kept under."""

    id: str
    """Of the post."""
    content: dict[str, Any]
    """All that the answer depends on, texts and images by their hashes."""

    @functools.cached_property
    def key(self) -> str:
        """The hash of `content`, under which its answer is stored."""
        return _hash(json.dumps(self.content, sort_keys=True, ensure_ascii=False))


@dataclasses.dataclass(frozen=True)
class Question(Request):
    """One request, and what its answer is kept under."""

    size: Estimate
    """Tokens of the prompt, whatever its image's size."""
    prompt: PromptTokens
    """The same by parts, of an image of this size."""
    messages: Callable[[], list[dict[str, Any]]]
    """Makes the chat; raises `Unaskable` for an image that cannot be used."""


QuestionOf = Callable[[int], Question]
"""Makes a question by its number; called in several threads. It may raise `Unaskable`."""


def ask_about(
    record: Record, template: Template, values: Mapping[str, str], endpoint: Endpoint, image_edge: int = IMAGE_EDGE
) -> Question:
    """The question that a template asks about a post.

    Args:
        values: of the template's fields, but for the image.
        image_edge: pixels; a larger image is made so small that neither side is longer.
    """
    image = record.image if IMAGE in template.fields else b""
    bare = template.messages(values, None)
    asked = {
        "model": endpoint.model,
        "parameters": dict(endpoint.parameters),
        "prompt": template.version,
        "text": _hash(json.dumps(bare, ensure_ascii=False)),
        "image": _hash(image) if image else None,
        "image_edge": image_edge if image else None,
    }

    def messages() -> list[dict[str, Any]]:
        if not image:
            return bare
        try:
            return template.messages(values, data_url(image, image_edge))
        except ImageError as error:
            raise Unaskable(error.reason) from None

    said = "".join(message["content"] for message in bare)
    size = estimate(said, image_edge if image else None)
    prompt = PromptTokens(estimate(said, None), _tokens_of(image, image_edge) if image else None)
    return Question(record.id, asked, size, prompt, messages)


def data_url(image: bytes, edge: int) -> str:
    """The picture upright and in RGB, neither side above `edge` pixels, as a `data:` address of a JPEG.

    What else the file holds, such as the place where a photograph was taken, does not go with it.

    Raises:
        ImageError: it cannot be decoded.
    """
    picture = decode(image, edge=edge)
    picture.info.clear()
    return jpeg_url(picture, quality=JPEG_QUALITY)


def _tokens_of(image: bytes, edge: int) -> ImageTokens:
    """Of the image as `data_url` sends it."""
    try:
        with Image.open(io.BytesIO(image)) as header:
            scale = min(1.0, edge / max(header.size))
            return image_tokens(*(round(side * scale) for side in header.size))
    except Exception:  # Pillow's readers raise what they please; `messages` tells what is wrong with it
        return image_tokens(edge, edge)


def _hash(content: str | bytes) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content).hexdigest()
