"""Exceptions for failed requests, and the headers that describe a failure."""

import email.utils
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

PLAUSIBLE_RETRY_AFTER = 31 * 24 * 3600.0
"""Longest plausible wait in seconds; a longer one is ignored."""


class Refused(Exception):
    """The endpoint refuses this request, and would refuse it again.

    `body` is its answer, where that may report a usage.
    """

    def __init__(self, reason: str, *, body: dict[str, Any] | None = None):
        super().__init__(reason)
        self.body = body


class Retryable(Exception):
    """A failed request that may succeed when it is repeated.

    Attributes:
        overloaded: whether fewer calls in flight would help.
        after: seconds that the endpoint asks to wait.
        charged: whether the endpoint may have charged for the call.
        body: the endpoint's answer, where that was JSON.
        final: whether the body is stored after the last attempt: it is an answer, but holds no message.
    """

    def __init__(
        self,
        reason: str,
        *,
        overloaded: bool = False,
        after: float | None = None,
        charged: bool = False,
        body: dict[str, Any] | None = None,
        final: bool = False,
    ):
        super().__init__(reason)
        self.overloaded, self.after, self.charged = overloaded, after, charged
        self.body, self.final = body, final


class Unavailable(Exception):
    """No attempt at this request got an answer; a later run may get one. `last` is the last attempt's error."""

    def __init__(self, last: Retryable):
        super().__init__(str(last))
        self.last = last


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait, given as a number or a date; None where missing or implausible."""
    seconds = _asked_seconds(headers)
    return seconds if seconds is not None and 0 <= seconds <= PLAUSIBLE_RETRY_AFTER else None


def _asked_seconds(headers: Mapping[str, str]) -> float | None:
    asked = headers.get("retry-after", "")
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return float(milliseconds) / 1000
        return float(asked)
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError, OSError):  # a date beyond the calendar, or none
        return None


def redirect_target(location: str) -> str:
    """The address that a redirect points to, without user, password and query, which may be secret."""
    try:
        place = urlsplit(location.strip())
        return place._replace(netloc=place.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        return "an invalid URL"
