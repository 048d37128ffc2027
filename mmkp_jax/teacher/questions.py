"""Builds requests from posts: the prompt, the downscaled image, and the key of the answer in the store."""

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
"""Most pixels a side; OpenAI scales the shorter side of an image to this."""
JPEG_QUALITY = 90


class Unaskable(Exception):
    """Raised for a post that no request can be built from; nothing is sent."""


@dataclasses.dataclass(frozen=True)
class Request:
    """Identity of a request, under which its answer is stored."""

    id: str
    """The post's id."""
    content: dict[str, Any]
    """Everything that the answer depends on, with texts and images by their hashes."""

    @functools.cached_property
    def key(self) -> str:
        """The hash of `content`, under which its answer is stored."""
        return _hash(json.dumps(self.content, sort_keys=True, ensure_ascii=False))


@dataclasses.dataclass(frozen=True)
class Question(Request):
    """A request with its chat and the size of its prompt."""

    size: Estimate
    """Estimated tokens of the prompt, for an image of any size."""
    prompt: PromptTokens
    """Estimated tokens by part, for this image's size."""
    messages: Callable[[], list[dict[str, Any]]]
    """Builds the chat; raises `Unaskable` for an image that cannot be used."""


QuestionOf = Callable[[int], Question]
"""Builds a question by its number; called in several threads. It may raise `Unaskable`."""


def ask_about(
    record: Record, template: Template, values: Mapping[str, str], endpoint: Endpoint, image_edge: int = IMAGE_EDGE
) -> Question:
    """Builds the question that a template asks about a post.

    Args:
        values: values of the template's fields, except the image.
        image_edge: most pixels a side; a larger image is scaled down.
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
    """The image as a `data:` URL of a JPEG: upright, in RGB, at most `edge` pixels a side.

    The file's metadata, such as the place where a photograph was taken, is dropped.

    Raises:
        ImageError: it cannot be decoded.
    """
    decoded = decode(image, edge=edge)
    decoded.info.clear()
    return jpeg_url(decoded, quality=JPEG_QUALITY)


def _tokens_of(image: bytes, edge: int) -> ImageTokens:
    """Tokens of the image at the size that `data_url` sends."""
    try:
        with Image.open(io.BytesIO(image)) as header:
            scale = min(1.0, edge / max(header.size))
            return image_tokens(*(round(side * scale) for side in header.size))
    except Exception:  # Pillow's readers raise anything; `messages` reports what is wrong
        return image_tokens(edge, edge)


def _hash(content: str | bytes) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content).hexdigest()
