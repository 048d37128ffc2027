"""How a request can fail, and what the headers of a failure say."""

import email.utils
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

PLAUSIBLE_RETRY_AFTER = 31 * 24 * 3600.0
"""Seconds: no endpoint means a longer wait; one that asks for it is asked again as if it had asked for none."""


class Refused(Exception):
    """The endpoint will not answer this request: asking again would give the same.

    `body`: what it answered, where that may say what it charged.
    """

    def __init__(self, reason: str, *, body: dict[str, Any] | None = None):
        super().__init__(reason)
        self.body = body


class Retryable(Exception):
    """A request that may be answered when it is made again.

    Attributes:
        overloaded: whether fewer calls at a time would help.
        after: seconds that the endpoint asks to wait.
        charged: whether it may have charged for the call.
        body: what it answered, where that was JSON.
        final: whether that is to be kept once there are no more attempts: it is an answer, but holds no message.
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
    """The endpoint did not answer this request at any attempt: it may another time. `last` is the last attempt's."""

    def __init__(self, last: Retryable):
        super().__init__(str(last))
        self.last = last


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait, as a number or a date; None where it asks nothing that can be meant."""
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
    """Where a redirect points to, without what may be secret in it: a user, a password, a query."""
    try:
        place = urlsplit(location.strip())
        return place._replace(netloc=place.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        return "what is no address"
