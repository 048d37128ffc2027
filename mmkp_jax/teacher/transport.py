"""What comes back over HTTP, as bytes: bounded while it is unpacked, no redirect followed, no text decoded.

The SDK would unpack an answer of any size, decode it by whatever charset its header names, follow redirects with all
headers but one, and read the bodies of errors with a parser of its own. A hook that sees each response before its body
is read does these things instead, and gives the SDK nothing else to do.
"""

import contextlib
import importlib
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import openai

from mmkp_jax.runtime.limits import ANSWER, FILE, Limit

PIECE = 1 << 20  # bytes that are unpacked at a time
PACKED = {"gzip": 47, "x-gzip": 47, "deflate": 47}
"""Content encodings that are asked for, by zlib's window bits: those take either header."""
RAW = -15  # what some servers call deflate
_CLIENT = next(each for each in openai.DefaultAsyncHttpxClient.__mro__ if each.__name__ == "AsyncClient")
_httpx: Any = importlib.import_module(_CLIENT.__module__.partition(".")[0])  # under whichever name the SDK brings it
InvalidAddress: type[Exception] = _httpx.InvalidURL
"""Raised where a client is made for what is no address."""


class Failed(Exception):
    """A response of another status than success, or a redirect, with its whole body (empty where it is unusable)."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes):
        super().__init__(status)
        self.status, self.headers, self.content = status, headers, content


class Unusable(Exception):
    """A body that is too large, or cannot be unpacked."""


def http_client() -> Any:
    """The SDK's own HTTP client, with the hook."""
    return openai.DefaultAsyncHttpxClient(
        follow_redirects=False,
        headers={"Accept-Encoding": "gzip, deflate"},
        event_hooks={"response": [_take]},
    )


async def _take(response: Any) -> None:
    limit = FILE if response.request.url.path.endswith("/content") else ANSWER  # a batch's results are a file
    response.stream = _Bounded(response.stream, response.headers.get("content-encoding", ""), limit)
    for name in ("content-encoding", "content-type"):
        if name in response.headers:
            del response.headers[name]
    if response.status_code < 300:
        return
    content = b""
    if response.status_code >= 400:
        with contextlib.suppress(Unusable):
            content = await response.aread()
    raise Failed(response.status_code, response.headers, content)


class _Bounded(_httpx.AsyncByteStream):
    """A body as it is read: unpacked, and refused once it is larger than the limit."""

    def __init__(self, stream: Any, encoding: str, limit: Limit):
        self._stream, self._encoding, self._limit = stream, encoding.strip().lower(), limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        most, size = self._limit.bytes(), 0
        unpacker = None if self._encoding in ("", "identity") else Unpacker(self._encoding)
        async for chunk in self._stream:
            for piece in unpacker.pieces(chunk) if unpacker else (chunk,):
                size += len(piece)
                if size > most:
                    raise Unusable(f"{self._limit.message()} ({self._limit.variable} sets the limit)")
                yield piece
        if unpacker:
            unpacker.end()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Unpacker:
    """Unpacks gzip or deflate a piece at a time.

    Raises:
        Unusable: of another encoding, or when what it is given is damaged or cut off.
    """

    def __init__(self, encoding: str):
        if encoding not in PACKED:
            raise Unusable("the answer is packed in a way that was not asked for")
        self._bits, self._started = PACKED[encoding], False
        self._made = zlib.decompressobj(self._bits)

    def pieces(self, packed: bytes) -> Iterator[bytes]:
        """Yields what the next bytes hold, at most `PIECE` bytes at a time."""
        while packed:
            if self._made.eof:  # gzip may have several members
                self._made = zlib.decompressobj(self._bits)
            piece = self._unpacked(packed)
            self._started = True
            while piece:
                yield piece
                piece = self._unpacked(self._made.unconsumed_tail) if not self._made.eof else b""
            packed = self._made.unused_data if self._made.eof else b""

    def _unpacked(self, packed: bytes) -> bytes:
        try:
            return self._made.decompress(packed, PIECE)
        except zlib.error:
            if self._started or self._bits == RAW:
                raise Unusable("the answer's compression is damaged") from None
            self._bits, self._made = RAW, zlib.decompressobj(RAW)
            return self._unpacked(packed)

    def end(self) -> None:
        """Makes sure that nothing is missing."""
        if self._started and not self._made.eof:
            raise Unusable("the answer's compression is cut off")
