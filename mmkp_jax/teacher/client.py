"""One asynchronous client for any OpenAI-compatible endpoint: asks until there is an answer, or a reason for none."""

import asyncio
import email.utils
import functools
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.cost import usage_of
from mmkp_jax.teacher.endpoint import Endpoint, Limits
from mmkp_jax.teacher.limits import Throttle

CHAT = "/chat/completions"
LONGEST_BACKOFF = 60.0  # seconds
LONGEST_RETRY_AFTER = 3600.0
"""Seconds: an endpoint that asks for a longer wait (a daily quota) ends the run."""

T = TypeVar("T")
_OVERLOADED = {408, 429, 503, 504, 529}
_AGAIN = {408, 409, 425, 429}  # and those from 500
_NO_MONEY = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_NOT_CONNECTED = {"ConnectError", "ConnectTimeout", "UnsupportedProtocol", "ProxyError"}
"""Names of httpx's errors; the SDK brings httpx under one name or another."""
SHORTEST_SECRET = 8
"""Characters: what is shorter is no secret, and would be found in any message."""
_NO_MODEL = {"model_not_found", "invalid_model", "model_not_supported"}


class Reply(NamedTuple):
    """What the endpoint answered, as it did, and at which attempt."""

    body: dict[str, Any]
    attempt: int


class Refused(Exception):
    """The endpoint will not answer this request: asking again would give the same."""


class Unavailable(Exception):
    """The endpoint did not answer this request at any attempt: it may another time.

    `charged`: whether it may have charged for the last one.
    """

    def __init__(self, reason: str, *, charged: bool = False):
        super().__init__(reason)
        self.charged = charged


class Again(Exception):
    """A request that may be answered when it is made again; `charged` as of `Unavailable`."""

    def __init__(self, reason: str, *, overloaded: bool = False, after: float | None = None, charged: bool = False):
        super().__init__(reason)
        self.overloaded, self.after, self.charged = overloaded, after, charged


class Client:
    """Asks an endpoint; to be made and used within one event loop.

    Attributes:
        out: the tasks that have a call out, or an answer that they have not let go of by `out.discard`.
        stopped: set it to let no call be repeated.
        lost: calls that ended without a readable answer, so that what they cost, if anything, is not known.
        trouble: why a call was repeated, the last time.
    """

    def __init__(self, endpoint: Endpoint, limits: Limits):
        key = endpoint.key()
        self._limits = limits
        self._secrets = [each for each in (key, *endpoint.secrets) if len(each) >= SHORTEST_SECRET]
        self._reached = self._answered = False
        self.throttle = Throttle(limits.concurrency, limits.rpm, limits.tpm)
        self.endpoint = endpoint
        self.out: set[asyncio.Task[Any]] = set()
        self.stopped, self.lost, self.trouble = False, 0, ""
        self.sdk = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=key,
            default_headers=dict(endpoint.headers),
            max_retries=0,  # ours are the only ones
            timeout=openai.Timeout(None, connect=min(10.0, limits.timeout)),
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sdk.close()

    async def ask(
        self, body: Mapping[str, Any], tokens: int, lost: Callable[[], Awaitable[None]] | None = None
    ) -> Reply:
        """The endpoint's answer, which is a whole one with at least one choice.

        Args:
            body: of the request.
            tokens: most that it may take: prompt and answer.
            lost: called before a call is repeated that the endpoint may have charged for.

        Raises:
            Refused: the endpoint will not answer this.
            Unavailable: it did not, at any attempt.
            InputError: it will answer nothing: no such address, key or model, no money left.
        """
        try:
            async for attempt in self._attempts(lost):
                with attempt:
                    return Reply(await self._once(body, tokens), attempt.retry_state.attempt_number)
        except Again as error:
            raise Unavailable(str(error), charged=error.charged) from None
        raise AssertionError  # tenacity either returns or raises

    async def repeated(self, request: Callable[[], Awaitable[T]], timeout: float) -> T:
        """The response to a request other than a chat, which may be made several times; raises as `ask` does."""
        try:
            async for attempt in self._attempts():
                with attempt:
                    return await self.response(request, timeout)
        except Again as error:
            raise Unavailable(str(error)) from None
        raise AssertionError

    def _attempts(self, lost: Callable[[], Awaitable[None]] | None = None) -> AsyncRetrying:
        async def again(state: RetryCallState) -> None:
            if lost and state.outcome.exception().charged:
                await lost()

        return AsyncRetrying(
            before_sleep=again,
            retry=retry_if_exception(lambda error: isinstance(error, Again) and not self.stopped),
            stop=stop_after_attempt(self._limits.attempts),
            wait=self._wait,
            reraise=True,
        )

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception()
        if error.after is not None:
            return error.after + random.uniform(0, self._limits.backoff)
        return wait_random_exponential(self._limits.backoff, LONGEST_BACKOFF)(state)

    async def _once(self, body: Mapping[str, Any], tokens: int) -> dict[str, Any]:
        task = asyncio.current_task()
        async with self.throttle.turn(tokens):
            self.out.add(task)
            started = asyncio.get_running_loop().time()
            try:
                send = functools.partial(self.sdk.post, CHAT, cast_to=str, body=body)
                answer = self.whole(await self.response(send, self._limits.timeout))
            except BaseException as error:
                self.out.discard(task)
                if isinstance(error, Again):
                    self.trouble = str(error)
                    if error.overloaded:
                        self.throttle.overloaded(started)
                    if error.after is not None:
                        self.throttle.pause(error.after)
                raise
            self.throttle.answered()
            self._answered = True
            if (usage := usage_of(answer)) and sum(usage) > tokens:
                await self.throttle.more_tokens(sum(usage) - tokens)
            return answer

    async def response(self, request: Callable[[], Awaitable[T]], timeout: float) -> T:
        """The response to a request, made once.

        Raises:
            Again: it may be answered another time.
            Refused, InputError: as `ask`.
        """
        try:
            async with asyncio.timeout(timeout):
                response = await request()
        except TimeoutError:
            raise self._lost(f"no answer within {timeout:g} s", overloaded=True) from None
        except openai.APIStatusError as error:
            self._reached = True
            message, headers = self._clean(error.message), error.response.headers
            raise self.status_error(error.status_code, error.body, message, headers) from None
        except openai.APIConnectionError as error:
            cause = type(error.__cause__ or error).__name__
            what = self._clean(str(error.__cause__ or error)) or cause
            if not self._reached and cause in _NOT_CONNECTED:
                mend = "check the address, and that the endpoint runs"
                raise InputError(f"the endpoint cannot be reached ({what})", self.endpoint.base_url, mend) from None
            raise self._lost(f"the connection broke ({what})") from None
        self._reached = True
        return response

    def whole(self, text: str | bytes) -> dict[str, Any]:
        """The body of an answer that is one; raises as `response` does."""
        try:
            body = json.loads(text)
            error = body.get("error")
        except (ValueError, RecursionError, AttributeError):
            raise self._lost("the answer is not JSON") from None
        if error:  # some endpoints tell of an error under the status 200
            code = error.get("code") if isinstance(error, dict) else None
            status = code if isinstance(code, int) else 502
            raise self.status_error(status, error, self._clean(_message(error)), {})
        match body:
            case {"choices": [{"message": dict()}, *_]}:
                return body
        raise self._lost("the answer holds no message")

    def _lost(self, reason: str, *, overloaded: bool = False) -> Again:
        self.lost += 1
        return Again(reason, overloaded=overloaded, charged=True)

    def status_error(self, status: int, error: Any, message: str, headers: Mapping[str, str]) -> Exception:
        """What to do about an error that the endpoint tells of."""
        told = error if isinstance(error, dict) else {}
        codes, where = {str(told.get("code")), str(told.get("type"))}, self.endpoint.base_url
        message = f"{status}: {self._clean(_message(error)) or message}"
        if status == 402 or codes & _NO_MONEY:
            return InputError(f"the account cannot pay ({message})", where, "top it up; the same command goes on")
        if status == 401 or (status == 403 and not self._answered):
            mend = f"check the key in {self.endpoint.key_env}"
            return InputError(f"the endpoint does not let us in ({message})", where, mend)
        if codes & _NO_MODEL or told.get("param") == "model":
            return InputError(f"it has no model {self.endpoint.model!r} ({message})", where, "name one that it has")
        if status in (404, 405) and not self._answered:
            what = f"it has no model {self.endpoint.model!r}, or answers no chats at {CHAT} ({message})"
            return InputError(what, where, "check --base_url, which mostly ends in /v1, and --model")
        if status in _AGAIN or status >= 500:
            after = _retry_after(headers)
            if after is not None and after > LONGEST_RETRY_AFTER:
                what = f"the endpoint asks to wait {after / 3600:.1f} hours ({message})"
                return InputError(what, where, "give the same command then: it goes on")
            return Again(message, overloaded=status in _OVERLOADED, after=after)
        return Refused(message)

    def _clean(self, message: str) -> str:
        """A message in one line, without what must not be told."""
        for secret in self._secrets:
            message = message.replace(secret, "…")
        return " ".join(message.split())[:300]


def _message(error: Any) -> str:
    """What an endpoint says of an error, in one of the forms that there are."""
    return str(error.get("message") or error.get("detail") or "") if isinstance(error, dict) else str(error or "")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait: a number, or a date."""
    told = headers.get("retry-after", "")
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
