"""Asynchronous client for any OpenAI-compatible endpoint: retries until there is an answer or a final error."""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.answers import code_of, message_of, one_line
from mmkp_jax.teacher.bodies import NotJson, read_body
from mmkp_jax.teacher.cost import Usage, usage_of
from mmkp_jax.teacher.endpoint import Endpoint, Limits
from mmkp_jax.teacher.faults import Refused, Retryable, Unavailable, redirect_target, retry_after
from mmkp_jax.teacher.limits import Throttle
from mmkp_jax.teacher.transport import Failed, InvalidAddress, Unusable, http_client

CHAT = "/chat/completions"
MAX_BACKOFF = 60.0  # seconds
MAX_RETRY_AFTER = 3600.0
"""Longest wait in seconds: an endpoint that asks for a longer one (a daily quota) ends the run."""

T = TypeVar("T")
OnLost = Callable[[Retryable], Awaitable[None]]
_OVERLOADED = {408, 429, 503, 504, 529}
_AGAIN = {408, 409, 425, 429}  # and those from 500
_NO_MONEY = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_NOT_CONNECTED = {"ConnectError", "ConnectTimeout", "UnsupportedProtocol", "ProxyError"}
"""Names of httpx's errors; the package name of httpx depends on the SDK's version."""
MIN_SECRET = 8
"""Fewest characters of a secret; anything shorter would be found in any message."""
_NO_MODEL = {"model_not_found", "invalid_model", "model_not_supported"}


class Reply(NamedTuple):
    """The endpoint's answer, and the attempt that got it."""

    body: dict[str, Any]
    attempt: int


class Client:
    """Asks an endpoint; must be created and used within one event loop.

    Attributes:
        in_flight: tasks with a call in flight, or with an answer that they have not released by `in_flight.discard`.
        stopped: set to True to stop retries.
        lost: calls that ended without a readable answer, so that their cost is unknown.
        last_error: the reason of the latest retry.
    """

    def __init__(self, endpoint: Endpoint, limits: Limits):
        key = endpoint.key()
        self._limits = limits
        self._secrets = [each for each in (key, *endpoint.secrets) if len(each) >= MIN_SECRET]
        self._reached = self._answered = False
        self.throttle = Throttle(limits.concurrency, limits.rpm, limits.tpm)
        self.endpoint = endpoint
        self.in_flight: set[asyncio.Task[Any]] = set()
        self.stopped, self.lost, self.last_error = False, 0, ""
        try:
            self.sdk = openai.AsyncOpenAI(
                base_url=endpoint.base_url,
                api_key=key,
                default_headers=dict(endpoint.headers),
                max_retries=0,  # ours are the only ones
                timeout=openai.Timeout(None, connect=min(10.0, limits.timeout)),
                http_client=http_client(),
            )
        except InvalidAddress as error:
            raise InputError(f"it is not a URL ({error})", endpoint.base_url, "check --base_url") from None

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sdk.close()

    async def ask(
        self,
        body: Mapping[str, Any],
        tokens: int,
        lost: OnLost | None = None,
        sending: Callable[[], None] | None = None,
    ) -> Reply:
        """Returns the endpoint's answer, which holds a message.

        Args:
            body: the request's body.
            tokens: the most that it may take, prompt and answer together.
            lost: called before the retry of a call that the endpoint may have charged for.
            sending: called just before each attempt is sent.

        Raises:
            Refused: the endpoint refuses this request.
            Unavailable: no attempt got an answer.
            InputError: no request can succeed: wrong address, key or model, or no money left.
        """
        try:
            async for attempt in self._attempts(lost):
                with attempt:
                    return Reply(await self._once(body, tokens, sending), attempt.retry_state.attempt_number)
        except Retryable as error:
            raise Unavailable(error) from None
        raise AssertionError  # tenacity either returns or raises

    async def request_with_retries(self, request: Callable[[], Awaitable[T]], timeout: float) -> T:
        """Returns the response to a request other than a chat, with retries; raises as `ask` does.

        Args:
            request: makes one attempt.
        """
        try:
            async for attempt in self._attempts():
                with attempt:
                    return await self.request_once(request, timeout)
        except Retryable as error:
            raise Unavailable(error) from None
        raise AssertionError

    def _attempts(self, lost: OnLost | None = None) -> AsyncRetrying:
        async def again(state: RetryCallState) -> None:
            if lost and state.outcome.exception().charged:
                await lost(state.outcome.exception())

        return AsyncRetrying(
            before_sleep=again,
            retry=retry_if_exception(lambda error: isinstance(error, Retryable) and not self.stopped),
            stop=stop_after_attempt(self._limits.attempts),
            wait=self._wait,
            reraise=True,
        )

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception()
        if error.after is not None:
            return error.after + random.uniform(0, self._limits.backoff)
        return wait_random_exponential(self._limits.backoff, MAX_BACKOFF)(state)

    async def _once(self, body: Mapping[str, Any], tokens: int, sending: Callable[[], None] | None) -> dict[str, Any]:
        task = asyncio.current_task()
        async with self.throttle.turn(tokens):
            if sending:
                sending()
            self.in_flight.add(task)
            started = asyncio.get_running_loop().time()
            try:
                send = functools.partial(self.sdk.post, CHAT, cast_to=bytes, body=body)
                answer = self.parse_answer(await self.request_once(send, self._limits.timeout))
            except BaseException as error:
                self.in_flight.discard(task)
                if isinstance(error, Retryable):
                    self.last_error = str(error)
                    if error.overloaded:
                        self.throttle.overloaded(started)
                    if error.after is not None:
                        self.throttle.pause(error.after)
                raise
            self.throttle.answered()
            self._answered = True
            if (usage := usage_of(answer, Usage(tokens, tokens))) and sum(usage) > tokens:
                self.throttle.more_tokens(sum(usage) - tokens)
            return answer

    async def request_once(self, request: Callable[[], Awaitable[T]], timeout: float) -> T:
        """Returns the response to a request, without retries.

        Raises:
            Retryable: a retry may succeed.
            Refused, InputError: as in `ask`.
        """
        try:
            async with asyncio.timeout(timeout):
                response = await request()
        except TimeoutError:
            raise self._lost(f"no answer within {timeout:g} s", overloaded=True) from None
        except (Failed, Unusable, openai.OpenAIError) as error:
            raise self._fault(error) from None
        self._reached = True
        return response

    def _fault(self, error: Exception) -> Exception:
        """Returns the exception for a failed request."""
        if not isinstance(error, Failed | Unusable) and isinstance(error.__cause__, Failed | Unusable):
            error = error.__cause__
        if isinstance(error, Failed):
            self._reached = True
            return self._status_fault(error)
        if isinstance(error, Unusable):
            return self._lost(str(error))
        cause = error.__cause__ or error
        what = self._clean(str(cause)) or type(cause).__name__
        if not self._reached and type(cause).__name__ in _NOT_CONNECTED:
            hint = "check the address, and that the endpoint runs"
            return InputError(f"the endpoint cannot be reached ({what})", self.endpoint.base_url, hint)
        return self._lost(f"the connection broke ({what})")

    def _status_fault(self, failed: Failed) -> Exception:
        if failed.status < 400:
            target = self._clean(redirect_target(failed.headers.get("location", ""))) or "it does not say which"
            what = f"the endpoint redirects to another address ({failed.status}: {target})"
            if self._answered:
                return Retryable(what)
            hint = "no key is sent there; give that address as --base_url if you trust it"
            return InputError(what, self.endpoint.base_url, hint)
        try:
            body = read_body(failed.content)
            error: Any = body.get("error") or body
        except NotJson:
            error = failed.content[:10_000].decode("utf-8", "replace")
        return self.status_error(failed.status, error, failed.headers)

    def parse_answer(self, content: bytes) -> dict[str, Any]:
        """Parses an answer and checks that it holds a message; raises as `request_once` does."""
        try:
            return self.require_message(read_body(content))
        except NotJson as error:
            raise self._lost(str(error)) from None

    def require_message(self, body: dict[str, Any]) -> dict[str, Any]:
        """Returns the same body if it holds a message; raises as `request_once` does.

        Some endpoints return an error under the status 200, in place of the choices or in one of them. An error that
        reports a usage was charged for.
        """
        if error := body.get("error"):
            fault = self.status_error(code_of(error) or 502, error, {})
            if body.get("usage") is not None and not isinstance(fault, Refused):
                raise self._lost(str(fault), body=body)
            if isinstance(fault, Refused):
                fault.body = body
            raise fault
        choices = body.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if isinstance(choice, dict):
            code = code_of(choice.get("error"))
            if code and (code in _AGAIN or code >= 500):
                raise self._lost(f"{code}: {self._clean(message_of(choice['error']))}", body=body)
            if isinstance(choice.get("message"), dict):
                return body
        raise self._lost("the answer holds no message", body=body, final=isinstance(choices, list))

    def _lost(self, reason: str, *, overloaded: bool = False, **options: Any) -> Retryable:
        self.lost += 1
        return Retryable(reason, overloaded=overloaded, charged=True, **options)

    def status_error(self, status: int, error: Any, headers: Mapping[str, str]) -> Exception:
        """Returns the exception for an error that the endpoint reports."""
        details = error if isinstance(error, dict) else {}
        codes = {each for each in (details.get("code"), details.get("type")) if isinstance(each, str)}
        where, message = self.endpoint.base_url, f"{status}: {self._clean(message_of(error))}".removesuffix(": ")
        if status == 402 or codes & _NO_MONEY:
            return InputError(f"the account cannot pay ({message})", where, "top it up; the same command continues")
        if status == 401 or (status == 403 and not self._answered):
            hint = f"check the key in {self.endpoint.key_env}"
            return InputError(f"the endpoint denies access ({message})", where, hint)
        if codes & _NO_MODEL or details.get("param") == "model":
            return InputError(f"it has no model {self.endpoint.model!r} ({message})", where, "name one that it has")
        if status in (404, 405) and not self._answered:
            what = f"it has no model {self.endpoint.model!r}, or answers no chats at {CHAT} ({message})"
            return InputError(what, where, "check --base_url, which mostly ends in /v1, and --model")
        if status in _AGAIN or status >= 500:
            after = retry_after(headers)
            if after is not None and after > MAX_RETRY_AFTER:
                what = f"the endpoint asks to wait {after / 3600:.1f} hours ({message})"
                return InputError(what, where, "give the same command then: it continues")
            return Retryable(message, overloaded=status in _OVERLOADED, after=after)
        return Refused(message)

    def _clean(self, message: str) -> str:
        """A message as one line, without secrets and terminal control characters."""
        for secret in self._secrets:
            message = message.replace(secret, "…")
        return one_line(message)
