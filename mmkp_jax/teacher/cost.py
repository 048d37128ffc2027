"""Tokens and money: what answers cost, and the most that further calls may cost."""

import asyncio
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

IMAGE_TOKENS = 85, 170
"""Tokens that OpenAI counts for an image, and for each 512-pixel tile of it."""
TILE = 512
PATCH = 28
"""Side in pixels of the square that Qwen2.5-VL counts as one token."""
MIN_PATCHES = 256
"""Fewest patches counted for an image: some endpoints charge a fixed sum, so a small image would mislead `learn`."""
COUNTING = "as gpt-4o (85 + 170 a tile of 512 pixels) or Qwen2.5-VL (1 for 28 x 28 pixels) do"
"""How image tokens are estimated until the endpoint has reported its count of the first image."""


class Usage(NamedTuple):
    """Tokens of one answer, as the endpoint counts them."""

    prompt: int
    completion: int


class Prices(NamedTuple):
    """Prices of a million tokens; None where unknown."""

    input: float | None = None
    output: float | None = None

    def cost(self, usage: Usage | None) -> float | None:
        """Cost of these tokens; None where unknown."""
        if usage is None or self.input is None or self.output is None:
            return None
        return (usage.prompt * self.input + usage.completion * self.output) / 1e6


MAX_OVERCOUNT = 100, 10_000
"""Factor and offset by which a reported usage may exceed the expected maximum and still be plausible: counts of images
differ by a factor of 30, and some endpoints count hidden reasoning or a prompt of their own."""


def usage_of(body: Mapping[str, Any], most: Usage) -> Usage | None:
    """Tokens that an answer reports; None where it reports none, or an implausible number.

    Args:
        most: tokens that it may have taken, as far as is known.
    """
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return None
    found = plausible_usage(usage.get("prompt_tokens"), usage.get("completion_tokens"), most)
    if found and (found.prompt * MAX_UNDERCOUNT < most.prompt or (_says_something(body) and not found.completion)):
        return None  # it would lower what counts as spent
    return found


def _says_something(body: Mapping[str, Any]) -> bool:
    """Whether an answer has text, and so took tokens."""
    match body.get("choices"):
        case [{"message": {"content": str(text)}}, *_]:
            return bool(text)
    return False


def plausible_usage(prompt: object, completion: object, most: Usage) -> Usage | None:
    """The reported tokens if plausible, else None: integers from 0 (prompt: from 1), not far above `most`."""
    times, more = MAX_OVERCOUNT
    if not (isinstance(prompt, int) and isinstance(completion, int)) or isinstance(prompt, bool):
        return None
    if isinstance(completion, bool) or prompt < 1 or completion < 0:
        return None
    if prompt > times * most.prompt + more or completion > times * most.completion + more:
        return None
    return Usage(prompt, completion)


MAX_UNDERCOUNT = 100
"""Factor by which a prompt may take fewer tokens than expected and still be plausible."""


class Estimate(NamedTuple):
    """Lower and upper bound of a prompt's tokens, for an unknown tokenizer."""

    low: int
    high: int

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.low + other.low, self.high + other.high)


class ImageTokens(NamedTuple):
    """Tokens of an image by two ways of counting."""

    tiles: int
    """Tokens as OpenAI counts them."""
    patches: int
    """Tokens as Qwen2.5-VL counts them."""


def image_tokens(width: int, height: int) -> ImageTokens:
    """Tokens of an image of this size in pixels."""
    base, tile = IMAGE_TOKENS
    tiles, patches = (-(-width // size) * -(-height // size) for size in (TILE, PATCH))
    return ImageTokens(base + tile * tiles, max(patches, MIN_PATCHES))


class PromptTokens(NamedTuple):
    """Estimated tokens of a prompt, by text and image."""

    text: Estimate
    image: ImageTokens | None = None


def estimate(text: str, image_edge: int | None) -> Estimate:
    """Estimates the tokens of a text and an image of at most `image_edge` pixels a side, as OpenAI or Qwen count it.

    A token holds between 2 and 5 bytes of a text in a language written with letters.
    """
    size = len(text.encode())
    tokens = Estimate(size // 5, size // 2 + 16)
    if image_edge is None:
        return tokens
    return tokens + Estimate(IMAGE_TOKENS[0], max(image_tokens(image_edge, image_edge)))


def money(amount: float | None) -> str:
    """Formats an amount, in the currency of the prices."""
    return "unknown" if amount is None else f"{amount:,.4f}" if amount < 1 else f"{amount:,.2f}"


class Reservation(NamedTuple):
    """Tokens and money reserved for a call."""

    prompt: PromptTokens
    most: Usage
    """The most tokens that the call may take."""
    amount: float
    """Money reserved for them."""
    alone: bool
    """Whether no other call may be in flight meanwhile."""


class Budget:
    """Money spent, and whether one more call fits into the limit at its highest cost.

    Endpoints count images in ways that differ by a factor of 30: under a limit, the first call with an image is made
    alone, and its usage bounds the following ones.

    Args:
        most: limit of the total cost; None for no limit.
        prices: prices of the calls to come.
        spent: cost of the stored answers, and of calls that may have been charged.
    """

    def __init__(self, most: float | None, prices: Prices, spent: float = 0.0):
        self._most, self.prices, self.spent = most, prices, spent
        self._reserved, self._calls, self._changed = 0.0, 0, asyncio.Condition()
        self._alone, self._seen_image = False, most is None
        # Largest factors by which prompts exceeded their estimates.
        self._text, self._tiles, self._patches = 1.0, 1.0, 1.0

    def knows(self, prompt: PromptTokens) -> bool:
        """Whether `tokens` bounds this prompt, as it does any without an image."""
        return prompt.image is None or self._seen_image

    def tokens(self, prompt: PromptTokens, answer: int) -> int:
        """The most tokens of a call, as far as the answers so far show."""
        tokens = int(prompt.text.high * self._text) + answer
        if prompt.image:
            tokens += math.ceil(max(prompt.image.tiles * self._tiles, prompt.image.patches * self._patches))
        return tokens

    async def reserve(self, prompt: PromptTokens, answer: int) -> Reservation | None:
        """Reserves the most that a call may cost, waiting for money to be released; None when there is too little."""
        async with self._changed:
            while True:
                alone = not self.knows(prompt)
                if self._alone or (alone and self._calls):
                    await self._changed.wait()
                    continue
                most = Usage(self.tokens(prompt, 0), answer)
                amount = self.prices.cost(most) or 0.0
                if self._most is None or self.spent + self._reserved + amount <= self._most:
                    self._reserved, self._calls, self._alone = self._reserved + amount, self._calls + 1, alone
                    return Reservation(prompt, most, amount, alone)
                if not self._calls:
                    return None
                await self._changed.wait()

    async def settle(self, reserved: Reservation, usage: Usage | None, *, charged: bool) -> None:
        """Replaces a reservation by what the call did cost.

        Args:
            charged: whether the endpoint may have charged for the call; where it reported no usage, the whole
                reservation counts as spent.
        """
        if usage is not None:
            self.learn(reserved.prompt, usage)
        self._reserved, self._calls = self._reserved - reserved.amount, self._calls - 1
        self._alone &= not reserved.alone
        if charged:
            self.spent += reserved.amount if usage is None else self.prices.cost(usage) or 0.0
        async with self._changed:
            self._changed.notify_all()

    def learn(self, prompt: PromptTokens, usage: Usage) -> None:
        """Updates the bounds by the endpoint's own count of a prompt, as `usage_of` returns it."""
        self._seen_image |= prompt.image is not None
        if prompt.image is None:
            self._text = max(self._text, usage.prompt / prompt.text.high)
        else:
            image = usage.prompt - prompt.text.low
            self._tiles = max(self._tiles, image / prompt.image.tiles)
            self._patches = max(self._patches, image / prompt.image.patches)
