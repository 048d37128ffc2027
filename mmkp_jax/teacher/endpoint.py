"""The endpoint to ask, and the limits of its load."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.json_files import is_integer, shown

BATCH_SIZE = 50_000
"""Most requests in one batch, as OpenAI limits it."""

LENGTHS = ("max_completion_tokens", "max_tokens")
"""Fields of a request that bound its answer."""
_OURS = {"model", "messages", "stream", "n"}


@dataclass(frozen=True)
class Endpoint:
    """An endpoint, its model, and the parameters of requests."""

    base_url: str
    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the request other than model and messages, such as `max_tokens` and `temperature`."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # they may hold secrets
    secrets: Sequence[str] = field(default=(), repr=False)
    """Values of headers that no message may show."""
    key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key, which is stored nowhere else."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            good = parts.port is None or parts.port > 0
        except ValueError:
            good = False
        if not good or not self.base_url.isprintable():
            raise InputError("it is not a URL", for_terminal(self.base_url), "give one like https://api.openai.com/v1")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError("it is not a URL", self.base_url, "give one like https://api.openai.com/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            what, hint = "the address holds more than a host and a path", "put keys into the environment, not into it"
            raise InputError(what, f"{parts.scheme}://{parts.hostname}", hint)
        if taken := _OURS & self.parameters.keys():
            what = f"the field {min(taken)!r} of a request cannot be set"
            raise InputError(what, "--extra_body", "leave it out: one complete answer is read for each post")
        for name in LENGTHS:
            if name in self.parameters and not (is_integer(self.parameters[name]) and self.parameters[name] > 0):
                what = f"the field {name!r} of a request is {shown(self.parameters[name])}"
                raise InputError(what, "--extra_body", "give a whole number from 1: it bounds what an answer costs")
        for name, value in self.headers.items():
            if not (name.isascii() and value.isascii() and (name + value).isprintable() and name and " " not in name):
                raise InputError("a header can hold printable ASCII only", for_terminal(name)[:60], "correct it")

    def key(self) -> str:
        """Reads the key from the environment.

        Raises:
            InputError: the environment has none, or one that is not printable ASCII.
        """
        if key := os.environ.get(self.key_env, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise InputError(
                    "the key holds characters that no key has", self.key_env, "export it again, in one line of ASCII"
                )
            return key
        hint = "export it; any word works for an endpoint without keys"
        raise InputError("the environment holds no key", self.key_env, hint)

    def body(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Builds a request's body."""
        return {"model": self.model, "messages": messages, **self.parameters}

    @property
    def answer_tokens(self) -> int:
        """The most tokens of an answer."""
        return max(self.parameters.get(name, 0) for name in LENGTHS)


@dataclass(frozen=True)
class Limits:
    """Limits of an endpoint's load, its timeout and retries."""

    concurrency: int = 16
    """Most calls in flight."""
    rpm: int | None = None
    """Most requests per minute."""
    tpm: int | None = None
    """Most tokens per minute."""
    timeout: float = 120.0
    """Timeout of a call, in seconds."""
    attempts: int = 8
    """Most attempts at a call."""
    backoff: float = 1.0
    """Longest wait in seconds before the second attempt; it doubles with each further one."""
