"""Answers of an endpoint: their verdict, and the row that the store keeps of each.

The row holds the body as it came. Verdict and usage are read from that body each time they are needed, by functions
that take any JSON, so that nothing an endpoint or an earlier version wrote ends a run or lowers its cost.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mmkp_jax.runtime.escape import for_terminal, for_utf8
from mmkp_jax.runtime.json_files import shown
from mmkp_jax.teacher.cost import Prices, Usage, plausible_usage, usage_of
from mmkp_jax.teacher.questions import Request

COMPLETE = (None, "stop")
"""Values of `finish_reason` that a complete answer may have; with any other, it is incomplete."""
MAX_MESSAGE = 300
"""Characters of an endpoint's text that a message repeats at most."""


def answer_row(
    request: Request,
    body: dict[str, Any] | None,
    most: Usage,
    prices: Prices = Prices(),  # noqa: B008, as it is frozen
    *,
    reason: str = "",
    charged: Mapping[str, Any] | None = None,
    attempt: int = 1,
) -> dict[str, Any]:
    """Returns the store's row of an answer; without a body, of a refusal.

    Args:
        most: tokens that it may have taken; they count where the answer's own count is missing or implausible.
        charged: for a refusal, the body that reports its usage.
    """
    status, message = ("refused", reason) if body is None else verdict(body)
    source = (charged if body is None else body) or {}
    usage = usage_of(source, most)
    row = {
        "id": request.id,
        "key": request.key,
        "asked": request.content,
        "status": status,
        "reason": message,
        "answer": body,
        "usage": usage and usage._asdict(),
        "most": most._asdict(),
        "cost": prices.cost(usage),
        "finish_reason": finish_of(body) if body else None,
        "attempt": attempt,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    return row | ({"note": IMPLAUSIBLE} if usage is None and source.get("usage") is not None else {})


def lost_row(
    request: Request, body: Mapping[str, Any] | None, most: Usage, prices: Prices, reason: str
) -> dict[str, Any]:
    """Returns the store's row of a failed call that was charged."""
    usage = usage_of(body or {}, most)
    row = {"lost": request.key, "id": request.id, "reason": reason, "most": most._asdict()}
    return row | {"usage": usage and usage._asdict(), "cost": prices.cost(usage)}


IMPLAUSIBLE = "the usage that the endpoint reports is implausible; the most that the call may have taken counts"


def verdict(body: Mapping[str, Any]) -> tuple[str, str]:
    """Returns (status, reason) of an answer, whatever JSON it is: `answered`, or why there is no complete answer.

    This is the one place that decides whether an answer is complete: its finish reason is `stop` or missing, it has a
    text, and neither an error nor a refusal.
    """
    choice = _choice(body)
    message = choice.get("message")
    if not isinstance(message, dict):
        return "empty", "the answer holds no message"
    finish = choice.get("finish_reason")
    if finish == "length":
        return "cut", "the answer was cut off: it has as many tokens as --max_tokens allows"
    if finish == "content_filter":
        return "filtered", "the endpoint's content filter removed the answer"
    if not any(finish == each for each in COMPLETE):
        return "unfinished", f"the answer ended with the finish_reason {finish_of(body)}, not 'stop'"
    if error := choice.get("error"):
        return "unfinished", f"the answer holds an error ({message_of(error)})"
    if refusal := message.get("refusal"):
        return "declined", f"the model declined: {one_line(refusal if isinstance(refusal, str) else shown(refusal))}"
    if not isinstance(message.get("content"), str) or not message["content"].strip():
        return "empty", "the answer holds no text"
    return "answered", ""


def row_verdict(row: Mapping[str, Any]) -> tuple[str, str]:
    """Returns (status, reason) of a row of the store: `verdict` of its answer, or why there was none."""
    if row["answer"] is None:
        return "refused", one_line(str(row.get("reason") or ""))
    return verdict(row["answer"])


def content_of(row: Mapping[str, Any]) -> str:
    """The text of an answer whose verdict is `answered`, as valid UTF-8."""
    return for_utf8(row["answer"]["choices"][0]["message"]["content"]).strip()


def most_of(row: Mapping[str, Any]) -> Usage | None:
    """The most tokens that a row's call may have taken; None where the row does not say."""
    match row.get("most"):
        case {"prompt": int(prompt), "completion": int(completion)} if min(prompt, completion) >= 0:
            return Usage(prompt, completion) if max(prompt, completion) < 1 << 62 else None
    return None


def usage_in(row: Mapping[str, Any]) -> Usage | None:
    """Tokens that a row's answer took; None where that is unknown."""
    usage, most = row.get("usage"), most_of(row)
    if not isinstance(usage, Mapping):
        return None
    return plausible_usage(usage.get("prompt"), usage.get("completion"), most or Usage(10_000_000, 10_000_000))


def is_implausible(row: Mapping[str, Any]) -> bool:
    """Whether a row's answer reports a usage that is not plausible."""
    answer = row.get("answer")
    return "note" in row or (isinstance(answer, Mapping) and answer.get("usage") is not None and usage_in(row) is None)


def finish_of(body: Mapping[str, Any]) -> str:
    """An answer's finish reason, for a message; `null` where there is none."""
    finish = _choice(body).get("finish_reason")
    return one_line(repr(finish) if isinstance(finish, str) else shown(finish))[:60]


def code_of(error: object) -> int | None:
    """The HTTP status that an error inside an answer gives as its code."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isascii() and code.isdecimal() and len(code) == 3:
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else None


def message_of(error: object) -> str:
    """The message of an endpoint's error, in any of the usual forms, as one line."""
    text = (error.get("message") or error.get("detail") or "") if isinstance(error, dict) else error or ""
    return one_line(text if isinstance(text, str) else shown(text))


def one_line(text: str) -> str:
    """An endpoint's text as one line that is safe for a terminal and a file."""
    return for_terminal(" ".join(text[: 10 * MAX_MESSAGE].split()))[:MAX_MESSAGE]


def _choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    match body.get("choices"):
        case [dict() as choice, *_]:
            return choice
    return {}
