"""What an endpoint answered: what it is worth, and the row that the store keeps of it."""

from datetime import UTC, datetime
from typing import Any

from mmkp_jax.teacher.cost import Prices, Usage, usage_of
from mmkp_jax.teacher.questions import Asked


def row_of(
    asked: Asked,
    body: dict[str, Any] | None,
    most: Usage,
    prices: Prices = Prices(),  # noqa: B008, as it is frozen
    *,
    reason: str = "",
    attempt: int = 1,
) -> dict[str, Any]:
    """The store's row of an answer; without a body, of a refusal.

    Args:
        most: tokens that it may have taken; they stand for those of an answer that does not tell them.
    """
    status, told = ("refused", reason) if body is None else verdict(body)
    usage = usage_of(body or {})
    return {
        "id": asked.id,
        "key": asked.key,
        "asked": asked.asked,
        "status": status,
        "reason": told,
        "answer": body,
        "usage": usage and usage._asdict(),
        "most": most._asdict(),
        "cost": prices.of(usage),
        "finish_reason": body["choices"][0].get("finish_reason") if body else None,
        "attempt": attempt,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }


def verdict(body: dict[str, Any]) -> tuple[str, str]:
    """What an answer is worth: `answered`, or why it is none."""
    choice = body["choices"][0]
    message, finish = choice["message"], choice.get("finish_reason")
    if finish == "length":
        return "cut", "the answer was cut off: it has as many tokens as --max_tokens allows"
    if finish == "content_filter":
        return "filtered", "the endpoint's content filter held the answer back"
    if message.get("refusal"):
        return "declined", f"the model declined: {message['refusal']}"
    if not isinstance(message.get("content"), str) or not message["content"].strip():
        return "empty", "the answer holds no text"
    return "answered", ""


def content_of(row: dict[str, Any]) -> str:
    """The text of an answer."""
    return row["answer"]["choices"][0]["message"]["content"].strip()
