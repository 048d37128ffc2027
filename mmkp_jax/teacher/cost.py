"""Tokens and money: what answers cost, and the most that more of them may."""

import asyncio
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

IMAGE_TOKENS = 85, 170
"""That OpenAI counts for an image, and for each 512-pixel tile of it."""
TILE = 512
PATCH = 28
"""Pixels along the square that a Qwen2.5-VL counts as one token."""
MIN_PATCHES = 256
"""Of an image, however small: else what is learnt from a small one, which others charge a fixed sum for, misleads."""
COUNTING = "as gpt-4o (85 + 170 a tile of 512 pixels) or Qwen2.5-VL (1 for 28 x 28 pixels) do"
"""How the tokens of images are counted, until the endpoint's own count of the first is known."""


class Usage(NamedTuple):
    """Tokens of one answer, as the endpoint counts them."""

    prompt: int
    completion: int


class Prices(NamedTuple):
    """Money for a million tokens; None where it is not known."""

    input: float | None = None
    output: float | None = None

    def cost(self, usage: Usage | None) -> float | None:
        """What so many tokens cost; None where that is not known."""
        if usage is None or self.input is None or self.output is None:
            return None
        return (usage.prompt * self.input + usage.completion * self.output) / 1e6


MAX_OVERCOUNT = 100, 10_000
"""What an endpoint may count is believed up to so many times the most that was expected, and so many tokens more:
images are counted in ways that differ by a factor of 30, and some count hidden reasoning or a prompt of their own."""


def usage_of(body: Mapping[str, Any], most: Usage) -> Usage | None:
    """The tokens that an answer says it took; None where it says nothing, or nothing that can be true.

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
    """Whether an answer has text, which takes tokens."""
    match body.get("choices"):
        case [{"message": {"content": str(text)}}, *_]:
            return bool(text)
    return False


def plausible_usage(prompt: object, completion: object, most: Usage) -> Usage | None:
    """Tokens that somebody counted, if they can be true: whole numbers from 0 (a prompt: 1), not far above `most`."""
    times, more = MAX_OVERCOUNT
    if not (isinstance(prompt, int) and isinstance(completion, int)) or isinstance(prompt, bool):
        return None
    if isinstance(completion, bool) or prompt < 1 or completion < 0:
        return None
    if prompt > times * most.prompt + more or completion > times * most.completion + more:
        return None
    return Usage(prompt, completion)


MAX_UNDERCOUNT = 100
"""A prompt may take so many times fewer tokens than the most that was expected of it."""


class Estimate(NamedTuple):
    """Tokens of a prompt: between these two, where nothing is known of the model's tokenizer."""

    low: int
    high: int

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.low + other.low, self.high + other.high)


class ImageTokens(NamedTuple):
    """Tokens of an image, by two ways of counting."""

    tiles: int
    """OpenAI's."""
    patches: int
    """Qwen's."""


def image_tokens(width: int, height: int) -> ImageTokens:
    """Of an image of so many pixels."""
    base, tile = IMAGE_TOKENS
    tiles, patches = (-(-width // size) * -(-height // size) for size in (TILE, PATCH))
    return ImageTokens(base + tile * tiles, max(patches, MIN_PATCHES))


class PromptTokens(NamedTuple):
    """What the tokens of a prompt come from."""

    text: Estimate
    image: ImageTokens | None = None


def estimate(text: str, image_edge: int | None) -> Estimate:
    """Of a text, and an image of at most `image_edge` pixels on each side: as OpenAI or Qwen count it.

    A token holds between 2 and 5 bytes of a text in a language written with letters.
    """
    size = len(text.encode())
    tokens = Estimate(size // 5, size // 2 + 16)
    if image_edge is None:
        return tokens
    return tokens + Estimate(IMAGE_TOKENS[0], max(image_tokens(image_edge, image_edge)))


def money(amount: float | None) -> str:
    """For people; the currency is that of the prices."""
    return "unknown" if amount is None else f"{amount:,.4f}" if amount < 1 else f"{amount:,.2f}"


class Reservation(NamedTuple):
    """What is set aside for a call."""

    prompt: PromptTokens
    most: Usage
    """Tokens that it may take."""
    amount: float
    """Money for them."""
    alone: bool
    """Whether no other call is out meanwhile."""


class Budget:
    """What has been spent, and whether one more call may be made, however much it may cost.

    Endpoints count images in ways that differ by a factor of 30: under a limit the first call with one goes alone,
    and what it took bounds those that follow.

    Args:
        most: money in all; None for no limit.
        prices: of the calls to come.
        spent: money for what is there already, what may have been charged for included.
    """

    def __init__(self, most: float | None, prices: Prices, spent: float = 0.0):
        self._most, self.prices, self.spent = most, prices, spent
        self._reserved, self._calls, self._changed = 0.0, 0, asyncio.Condition()
        self._alone, self._seen_image = False, most is None
        # By which prompts were longer than their estimates, at worst.
        self._text, self._tiles, self._patches = 1.0, 1.0, 1.0

    def knows(self, prompt: PromptTokens) -> bool:
        """Whether `tokens` holds for a prompt, as for any without an image."""
        return prompt.image is None or self._seen_image

    def tokens(self, prompt: PromptTokens, answer: int) -> int:
        """Most tokens of a call, as far as the answers until now tell."""
        tokens = int(prompt.text.high * self._text) + answer
        if prompt.image:
            tokens += math.ceil(max(prompt.image.tiles * self._tiles, prompt.image.patches * self._patches))
        return tokens

    async def reserve(self, prompt: PromptTokens, answer: int) -> Reservation | None:
        """Sets aside the most that a call may cost, once there is enough; None when there will not be."""
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
        """Counts what a call did cost in the place of what was set aside for it.

        Args:
            charged: whether the endpoint may have charged for the call; where it told no usage, all that was set aside
                counts as spent.
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
        """Takes the endpoint's own count of a prompt into account, one of `usage_of`."""
        self._seen_image |= prompt.image is not None
        if prompt.image is None:
            self._text = max(self._text, usage.prompt / prompt.text.high)
        else:
            image = usage.prompt - prompt.text.low
            self._tiles = max(self._tiles, image / prompt.image.tiles)
            self._patches = max(self._patches, image / prompt.image.patches)
