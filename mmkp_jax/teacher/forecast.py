"""Forecast of the calls, tokens and money that questions will take."""

import contextlib
import itertools
import json
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.teacher.cost import COUNTING, Estimate, Prices, Usage, money
from mmkp_jax.teacher.questions import QuestionOf, Unaskable

SHORT_ANSWER = 8
"""Divisor of the most answer tokens that gives the lower estimate."""
MAX_PROMPTS = 3
"""Most prompts that are shown."""


@dataclass
class Forecast:
    """Calls, tokens and money that asking would take."""

    questions: int
    answer_tokens: int
    """The most tokens of an answer."""
    prices: Prices
    calls: int = 0
    unaskable: int = 0
    """Questions that no request can be built from, images aside."""
    prompt: Estimate = field(default_factory=lambda: Estimate(0, 0))
    """Estimated tokens of all prompts."""
    other_limits: set[int] = field(default_factory=set)
    """Other values of `answer_tokens` that stored answers were asked with."""
    chats: list[list[dict[str, Any]]] = field(default_factory=list)
    """A few of the prompts, as chats."""

    def text(self) -> str:
        """The forecast as text for the terminal."""
        low, high = (self.calls * most for most in (max(1, self.answer_tokens // SHORT_ANSWER), self.answer_tokens))
        cost = [
            money(self.prices.cost(usage)) for usage in (Usage(self.prompt.low, low), Usage(self.prompt.high, high))
        ]
        price = "unknown: give --price_in and --price_out" if "unknown" in cost else " to ".join(cost)
        known = self.questions - self.calls - self.unaskable
        return "\n".join(
            [
                *(f"prompt {number}:\n{_shown(chat)}\n" for number, chat in enumerate(self.chats, start=1)),
                f"calls: {self.calls:,} for {self.questions:,} questions; {known:,} are answered already, or the same "
                f"as others, {self.unaskable:,} cannot be asked",
                f"tokens of prompts: {self.prompt.low:,} to {self.prompt.high:,}, estimated",
                f"  images are counted {COUNTING}; others may count up to 30 times as many",
                f"tokens of answers: {low:,} to {high:,} ({self.answer_tokens:,} each at most)",
                f"price: {price}",
                *self._warning(),
                "nothing was sent",
            ]
        )

    def _warning(self) -> list[str]:
        if not (self.other_limits and self.calls):
            return []
        others = " and ".join(f"{each:,}" for each in sorted(self.other_limits))
        return [
            f"--store has answers of at most {others} tokens: another --max_tokens, a higher one too, asks every post "
            "again"
        ]


def forecast(
    total: int,
    question_of: QuestionOf,
    known: Container[str],
    answer_tokens: int,
    prices: Prices,
    limits: Collection[int] = (),
) -> Forecast:
    """Counts what asking `total` questions would take, without any call.

    Args:
        known: keys that have an answer.
        answer_tokens: the most tokens of an answer.
        limits: the most tokens that stored answers were asked with.
    """
    found = Forecast(total, answer_tokens, prices, other_limits=set(limits) - {answer_tokens})
    seen: set[str] = set()
    for number in range(total):
        try:
            question = question_of(number)
        except Unaskable:
            found.unaskable += 1
            continue
        if question.key in known or question.key in seen:
            continue
        seen.add(question.key)
        found.calls += 1
        found.prompt += question.size
        if len(found.chats) < MAX_PROMPTS:
            with contextlib.suppress(Unaskable):
                found.chats.append(question.messages())
    return found


def _shown(chat: Sequence[dict[str, Any]]) -> str:
    parts = [
        (message["role"], part)
        for message in chat
        for part in ([message["content"]] if isinstance(message["content"], str) else message["content"])
    ]
    lines = []
    for role, group in itertools.groupby(parts, key=lambda each: each[0]):
        said = [part if isinstance(part, str) else part.get("text") or _image(part) for _, part in group]
        lines.append(f"  [{role}] " + "\n    ".join("\n".join(said).splitlines()))
    return for_terminal("\n".join(lines), lines=True)


def _image(part: dict[str, Any]) -> str:
    return f"(image, {len(json.dumps(part)):,} bytes on the wire)"
