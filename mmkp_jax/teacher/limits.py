"""Limits of the calls in flight, and of the requests and tokens per minute."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator

from aiolimiter import AsyncLimiter

MINUTE = 60.0  # seconds


class Rate:
    """A rate limit: at most `most` units in any window of a minute.

    A leaky bucket lets through its capacity and, in a minute, what has leaked out: both together are `most`.
    """

    def __init__(self, most: float, burst: float):
        self._burst = min(burst, most / 2)
        self._bucket = AsyncLimiter(self._burst, MINUTE * self._burst / (most - self._burst))

    async def take(self, amount: float) -> None:
        """Waits until `amount` may pass; in pieces, as a bucket cannot give more than its capacity."""
        while amount > 0:
            piece = min(amount, self._burst)
            await self._bucket.acquire(piece)
            amount -= piece


class Throttle:
    """Adapts the calls in flight to the endpoint, within the limits per minute.

    The first call is made alone. Each answer allows one more, which doubles their number every round, until the
    endpoint is overloaded; from then on the number is halved at every overload and otherwise grows by one a round
    (additive increase, multiplicative decrease, as in TCP).

    Args:
        most: calls in flight.
        rpm: requests per minute; None for no limit.
        tpm: tokens per minute, of prompts and the most of their answers; None for no limit.
    """

    def __init__(self, most: int, rpm: float | None = None, tpm: float | None = None):
        self._most, self._width, self._out = most, 1.0, 0
        self._starting = True
        self._cut = self._open_at = -math.inf
        self._room, self._line = asyncio.Condition(), asyncio.Lock()
        self._requests = Rate(rpm, 1) if rpm else None
        self._tokens = Rate(tpm, tpm / 10) if tpm else None
        self._owed = 0.0  # tokens that calls took beyond their estimates

    @property
    def width(self) -> int:
        """Calls that may be in flight now."""
        return int(self._width)

    @contextlib.asynccontextmanager
    async def turn(self, tokens: int) -> AsyncIterator[None]:
        """Waits for a call's turn, and holds its slot while the call is in flight."""
        async with self._room:
            await self._room.wait_for(lambda: self._out < self.width)
            self._out += 1
        try:
            async with self._line:  # one at a time: those that wait behind it have taken nothing yet
                await self._opened()
                if self._requests:
                    await self._requests.take(1)
                if self._tokens:
                    owed, self._owed = self._owed, 0.0
                    await self._tokens.take(tokens + owed)
                await self._opened()
            yield
        finally:
            self._out -= 1
            async with self._room:
                self._room.notify(max(0, self.width - self._out))

    def answered(self) -> None:
        """Records an answer."""
        self._width = min(self._most, self._width + (1 if self._starting else 1 / self._width))

    def overloaded(self, started: float) -> None:
        """Records that a call, started at `started` on the loop's clock, found the endpoint overloaded."""
        self._starting = False
        if started > self._cut:  # else this overload was handled already
            self._cut = asyncio.get_running_loop().time()
            self._width = max(1.0, self._width / 2)

    def pause(self, seconds: float) -> None:
        """Blocks all calls for this many seconds."""
        self._open_at = max(self._open_at, asyncio.get_running_loop().time() + seconds)

    def more_tokens(self, amount: int) -> None:
        """Counts tokens that a call took beyond its estimate: the next call waits for them."""
        self._owed += amount

    async def _opened(self) -> None:
        while (left := self._open_at - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)
