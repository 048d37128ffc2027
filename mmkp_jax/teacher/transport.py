"""HTTP responses as bytes: of bounded size when decompressed, without redirects or charset decoding.

The SDK would decompress an answer of any size, decode it by any charset that its header names, follow redirects with
all headers except one, and parse the bodies of errors itself. A hook that sees each response before its body is read
does these things instead.
"""

import contextlib
import importlib
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import openai

from mmkp_jax.runtime.limits import ANSWER, FILE, Limit

PIECE = 1 << 20  # bytes that are decompressed at a time
PACKED = {"gzip": 47, "x-gzip": 47, "deflate": 47}
"""zlib's window bits of each accepted content encoding; these values take either header."""
RAW = -15  # raw deflate, which some servers send as "deflate"
_CLIENT = next(each for each in openai.DefaultAsyncHttpxClient.__mro__ if each.__name__ == "AsyncClient")
_httpx: Any = importlib.import_module(
    _CLIENT.__module__.partition(".")[0]
)  # its package name depends on the SDK's version
InvalidAddress: type[Exception] = _httpx.InvalidURL
"""Raised for a client with an invalid URL."""


class Failed(Exception):
    """Raised for a response without success, or a redirect; holds its complete body (empty where it is unusable)."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes):
        super().__init__(status)
        self.status, self.headers, self.content = status, headers, content


class Unusable(Exception):
    """Raised for a body that is too large or cannot be decompressed."""


def http_client() -> Any:
    """Creates the SDK's HTTP client with the hook."""
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
    """Stream of a decompressed body; raises `Unusable` once it exceeds the limit."""

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
    """Decompresses gzip or deflate a piece at a time.

    Raises:
        Unusable: for another encoding, and for damaged or truncated data.
    """

    def __init__(self, encoding: str):
        if encoding not in PACKED:
            raise Unusable("the answer has a content encoding that was not accepted")
        self._bits, self._started = PACKED[encoding], False
        self._made = zlib.decompressobj(self._bits)

    def pieces(self, packed: bytes) -> Iterator[bytes]:
        """Yields the decompressed bytes, at most `PIECE` at a time."""
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
        """Checks that the data is complete."""
        if self._started and not self._made.eof:
            raise Unusable("the answer's compression is cut off")
