"""The body of a chat completion, read strictly: what has no effect here is refused, not ignored."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmkp_jax.data.conversations import ROLES, Turn
from mmkp_jax.decoding.sampling import Sampling
from mmkp_jax.serving.inputs import check_text, image_bytes
from mmkp_jax.serving.refusals import Refusal

MAX_STOPS = 4
"""Most texts of `stop`, as at OpenAI."""
MAX_MESSAGES = 200

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
}
"""Fields that are not supported, with the values that ask for nothing."""

_READ = ("model", "messages", "max_tokens", "max_completion_tokens", "stop", "stream", "stream_options")
_UNUSED = ("user", "safety_identifier", "metadata")
"""Fields about the one who asks."""


class ChatRequest(NamedTuple):
    """What a chat completion asks for."""

    turns: tuple[Turn, ...]
    image: bytes | None
    """The file of the one image of the turns."""
    max_tokens: int | None
    stops: tuple[str, ...]
    is_streamed: bool
    with_usage: bool
    """Whether the last event of a stream has the usage."""


def chat_request(body: Mapping[str, Any], sampling: Sampling, *, last_only: bool) -> ChatRequest:
    """The request in a body.

    Args:
        sampling: how the model's tokens are sampled, which no request changes.
        last_only: whether the last message of the user alone is read.

    Raises:
        Refusal: a field is missing, wrong or not supported.
    """
    for name, value in body.items():
        _check_field(name, value, sampling)
    messages = body.get("messages")
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise Refusal(400, f"messages is not a list of 1 to {MAX_MESSAGES} messages", "messages")
    numbered = list(enumerate(messages))
    if last_only:
        numbered = [(n, each) for n, each in numbered if isinstance(each, dict) and each.get("role") == "user"][-1:]
        if not numbered:
            raise Refusal(400, "messages has no message of the user", "messages")
    turns, images = zip(*(_turn(message, f"messages[{n}]") for n, message in numbered), strict=True)
    given = [image for each in images for image in each]
    if len(given) > 1:
        raise Refusal(400, f"messages has {len(given)} images; the model takes one", "messages")
    if turns[-1].role == "assistant":
        raise Refusal(400, "the last message is the assistant's, whose answer is asked for", "messages")
    stream = _flag(body, "stream")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict) or options.keys() - {"include_usage"}:
        raise Refusal(400, "stream_options has other fields than include_usage", "stream_options")
    if options and not stream:
        raise Refusal(400, "stream_options goes with stream", "stream_options")
    image = given[0] if given else None
    return ChatRequest(turns, image, _max_tokens(body), _stops(body), stream, _flag(options, "include_usage"))


def _check_field(name: str, value: Any, sampling: Sampling) -> None:
    if value is None or name in _READ or name in _UNUSED:
        return
    ours = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if name in ours:
        if isinstance(value, bool) or value != ours[name]:
            message = f"{name} is {ours[name]:g} for all requests; start serve with --{name}=F for another"
            raise Refusal(400, message, name)
    elif name == "seed":
        if sampling.temperature and (isinstance(value, bool) or value != sampling.seed):
            raise Refusal(400, f"seed is {sampling.seed} for all requests; start serve with --seed=N for another", name)
    elif (
        name not in _NEUTRAL
        or value not in _NEUTRAL[name]
        or isinstance(value, bool) != isinstance(_NEUTRAL[name][0], bool)
    ):
        raise Refusal(400, f"{name[:60]} is not supported", name[:60])


def _turn(message: Any, where: str) -> tuple[Turn, list[bytes]]:
    """A message, and the files of its images."""
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise Refusal(400, f"{where}.role is not one of {', '.join(ROLES)}", where)
    if extra := [name for name in message if name not in ("role", "content") and message[name] is not None]:
        raise Refusal(400, f"{where}.{extra[0][:60]} is not supported", where)
    content = message.get("content")
    if isinstance(content, str):
        return Turn(message["role"], (check_text(content, f"{where}.content"),)), []
    if not isinstance(content, list) or not content:
        raise Refusal(400, f"{where}.content is neither a text nor a list of parts", where)
    parts: list[str | None] = []
    images = []
    for number, part in enumerate(content):
        place = f"{where}.content[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            parts.append(check_text(part.get("text"), f"{place}.text"))
        elif kind == "image_url":
            if message["role"] != "user":
                raise Refusal(400, f"{place}: only the user's messages may have images", where)
            given = part.get("image_url")
            url = given.get("url") if isinstance(given, dict) else given
            images.append(image_bytes(url, f"{place}.image_url"))
            parts.append(None)
        else:
            raise Refusal(400, f"{place}.type is not one of text, image_url", where)
    return Turn(message["role"], tuple(parts)), images


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    given = {name: body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None}
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Refusal(400, f"{name} is not a whole number from 1", name)
    if len(set(given.values())) > 1:
        raise Refusal(400, "max_tokens and max_completion_tokens differ", "max_tokens")
    return next(iter(given.values()), None)


def _stops(body: Mapping[str, Any]) -> tuple[str, ...]:
    value = body.get("stop")
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise Refusal(400, f"stop is not a text, or a list of up to {MAX_STOPS}", "stop")
    return tuple(stops)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refusal(400, f"{name} is not true or false", name)
    return bool(value)
