"""Who is asked, and what the endpoint is asked to bear."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mmkp_jax.errors import InputError

BATCH_SIZE = 50_000
"""Requests in one batch at most, as OpenAI has it."""

_OURS = {"model", "messages", "stream", "n"}


@dataclass(frozen=True)
class Endpoint:
    """Who is asked, and how."""

    base_url: str
    model: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the request beside model and messages: `max_tokens`, `temperature`, what else the endpoint knows."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # they may hold secrets
    secrets: Sequence[str] = field(default=(), repr=False)
    """Of those headers, the values that no message may hold."""
    key_env: str = "OPENAI_API_KEY"
    """The variable of the environment that holds the key, which is kept nowhere else."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError("it is no address", self.base_url, "give one like https://api.openai.com/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            what, mend = "the address holds more than a host and a path", "put keys into the environment, not into it"
            raise InputError(what, f"{parts.scheme}://{parts.hostname}", mend)
        if taken := _OURS & self.parameters.keys():
            what = f"the field {min(taken)!r} of a request cannot be set"
            raise InputError(what, "--extra_body", "leave it out: one whole answer is read for each post")

    def key(self) -> str:
        """The key.

        Raises:
            InputError: the environment has none.
        """
        if key := os.environ.get(self.key_env, "").strip():
            return key
        mend = "export it; any word will do for an endpoint that asks for none"
        raise InputError("the environment holds no key", self.key_env, mend)

    def body(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """A request's body."""
        return {"model": self.model, "messages": messages, **self.parameters}

    @property
    def answer_tokens(self) -> int:
        """Most tokens of an answer."""
        return int(self.parameters.get("max_completion_tokens") or self.parameters.get("max_tokens") or 0)


@dataclass(frozen=True)
class Limits:
    """What an endpoint is asked to bear, and how long it is waited for."""

    concurrency: int = 16
    """Most calls at a time."""
    rpm: int | None = None
    """Most requests in a minute."""
    tpm: int | None = None
    """Most tokens in a minute."""
    timeout: float = 120.0
    """Seconds until a call is given up."""
    attempts: int = 8
    backoff: float = 1.0
    """Seconds: a second attempt waits up to this, a third up to twice as long, and so on."""
