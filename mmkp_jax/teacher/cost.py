"""Tokens and money: what answers cost, and the most that more of them may."""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

IMAGE_TOKENS = 85, 170
"""That OpenAI counts for an image, and for each 512-pixel tile of it."""
TILE = 512
PATCH = 28
"""Pixels along the square that a Qwen2.5-VL counts as one token."""


class Usage(NamedTuple):
    """Tokens of one answer, as the endpoint counts them."""

    prompt: int
    completion: int


class Prices(NamedTuple):
    """Money for a million tokens; None where it is not known."""

    input: float | None = None
    output: float | None = None

    def of(self, usage: Usage | None) -> float | None:
        """What so many tokens cost; None where that is not known."""
        if usage is None or self.input is None or self.output is None:
            return None
        return (usage.prompt * self.input + usage.completion * self.output) / 1e6


def usage_of(body: Mapping[str, Any]) -> Usage | None:
    """The tokens that an answer tells of."""
    match body.get("usage"):
        case {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}:
            return Usage(prompt, completion)
    return None


class Estimate(NamedTuple):
    """Tokens of a prompt: between these two, where nothing is known of the model's tokenizer."""

    low: int
    high: int

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.low + other.low, self.high + other.high)


def estimate(text: str, image_edge: int | None) -> Estimate:
    """Of a text, and an image of at most `image_edge` pixels on each side: as OpenAI or Qwen count it.

    A token holds between 2 and 5 bytes of a text in a language written with letters.
    """
    size = len(text.encode())
    tokens = Estimate(size // 5, size // 2 + 16)
    if image_edge is None:
        return tokens
    base, tile = IMAGE_TOKENS
    return tokens + Estimate(base, max(base + tile * (-(-image_edge // TILE)) ** 2, (-(-image_edge // PATCH)) ** 2))


def money(amount: float | None) -> str:
    """For people; the currency is that of the prices."""
    return "unknown" if amount is None else f"{amount:,.4f}" if amount < 1 else f"{amount:,.2f}"


class Budget:
    """What has been spent, and whether one more call may be made, however much it may cost.

    Args:
        most: money in all; None for no limit.
        prices: of the calls to come.
        spent: money for what is there already.
    """

    def __init__(self, most: float | None, prices: Prices, spent: float = 0.0):
        self._most, self.prices, self.spent = most, prices, spent
        self._reserved, self._calls, self._changed = 0.0, 0, asyncio.Condition()
        self._factor = 1.0  # by which prompts were longer than their estimates, at worst

    def tokens(self, high: int, answer: int) -> int:
        """Most tokens of a call whose prompt was estimated at `high`, as far as the answers until now tell."""
        return int(high * self._factor) + answer

    async def reserve(self, high: int, answer: int) -> float | None:
        """Sets aside the most that a call may cost, once there is enough; None when there will not be."""
        async with self._changed:
            while True:
                usage = Usage(self.tokens(high, 0), answer)
                amount = self.prices.of(usage) or 0.0
                if self._most is None or self.spent + self._reserved + amount <= self._most:
                    self._reserved, self._calls = self._reserved + amount, self._calls + 1
                    return amount
                if not self._calls:
                    return None
                await self._changed.wait()

    async def settle(self, reserved: float, high: int, usage: Usage | None) -> None:
        """Counts what a call did cost in the place of what was set aside for it."""
        if usage is not None and high:
            self._factor = max(self._factor, usage.prompt / high)
        self._reserved, self._calls = self._reserved - reserved, self._calls - 1
        self.spent += self.prices.of(usage) or 0.0
        async with self._changed:
            self._changed.notify_all()
