"""An OpenAI-compatible endpoint on loopback, with the faults of real ones: a real HTTP server in a thread."""

import asyncio
import email.parser
import email.policy
import functools
import gzip
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

MODEL = "fake-1"
RETURNED = "fake-1-2026-01-01"
"""The model's name in the answers."""

BOMB = 80_000_000
"""Decompressed size of an answer in bytes: more than `limits.ANSWER` allows."""

FAULTS = (
    "429",  # without Retry-After
    "429 after",
    "500",
    "503",
    "200 error",  # an error under the status of success
    "hang",
    "reset",
    "half",  # the connection breaks inside the body
    "not json",
    "no choices",
)
"""Transient faults: a retry succeeds."""

HOSTILE_AGAIN = (
    "choice 502",  # half a sentence, and an error inside the choice
    "no choices, usage",
    "deep",
    "gzip bomb",
    "gzip cut",
    "brotli",
    "not utf-8",
    "list",
    "redirect 302",
    "redirect 307",
    "429 -5",
    "429 1e9",
    "429 nan",
    "429 inf",
    "429 Fri, 31 Dec 99999 23:59:59 GMT",
)
"""Hostile failures after which a retry succeeds."""

HOSTILE_ANSWERED = (
    "charset utf-16",
    "charset hex",
    "charset idna",
    "charset rot13",
    "byte order mark",
    "utf-16",
    "gzip",
    "half a character",
    "model",
    "terminal",
    "think",
    "unopened think",
    "extra 1e999",
    "extra 10^5000",
)
"""Complete answers in unusual encodings or forms."""

USAGES = {
    "usage negative": {"prompt_tokens": -5_000_000, "completion_tokens": 1},
    "usage float": {"prompt_tokens": 1.5, "completion_tokens": 1},
    "usage text": {"prompt_tokens": "1", "completion_tokens": 1},
    "usage true": {"prompt_tokens": True, "completion_tokens": 1},
    "usage 10^400": {"prompt_tokens": 10**400, "completion_tokens": 1},
    "usage far": {"prompt_tokens": 10, "completion_tokens": 10**9},
    "usage list": [1, 2],
    "usage none of a prompt": {"prompt_tokens": 0, "completion_tokens": 0},
}
"""Implausible usages of complete answers."""

HOSTILE_FINAL = ("finish abort", "finish max_tokens", "finish error", "finish \x1b[2J\n|", "finish 7", "choice error")
"""Answers that stay incomplete after any retry."""

FINAL = ("400", "filter", "filtered", "cut", "declined", "empty")
"""Final faults: a retry gives the same."""


class Call(NamedTuple):
    """One request for a chat."""

    time: float
    text: str
    """The text of the user message."""
    fault: str | None
    tokens: int
    """Charged tokens; 0 without an answer."""
    body: dict[str, Any]
    reported: bool = True
    """Whether the answer reported a readable usage."""


@dataclass
class Batch:
    """One batch, with the results of its requests."""

    id: str
    metadata: dict[str, str]
    status: str
    polls: int
    output: bytes
    errors: bytes


def request_text(body: dict[str, Any]) -> str:
    """The text of the user message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def explanation(body: dict[str, Any]) -> str:
    """A made-up answer that depends only on the request."""
    return f"People say so: {hashlib.sha256(request_text(body).encode()).hexdigest()[:12]}."


class FakeEndpoint:
    """Answers while the `with` block runs.

    Args:
        answer: returns the text that answers a request's body.
        fault: returns the fault of the n-th (from 1) request with this text; None for none.
        delay: seconds until an answer.
        retry_after: seconds in the header of `429 after`.
        key: the only accepted key; None for any.
        batch_polls: polls of a batch until it has ended.
        batch_failure: reason to refuse a batch.
        elsewhere: target of redirects.
        usage: returns the usage that an answer reports; None for a plausible count.

    Attributes:
        headers: headers of every request.
        calls: requests for chats, in order.
        max_in_flight: most requests in flight.
        too_soon: requests in the second half of a Retry-After's wait; those in the first half may have been under way.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], str] = explanation,
        fault: Callable[[str, int], str | None] = lambda said, attempt: None,
        *,
        delay: float = 0.0,
        retry_after: float = 0.2,
        key: str | None = None,
        batch_polls: int = 1,
        batch_failure: str | None = None,
        elsewhere: str = "http://127.0.0.1:9/v1/chat/completions?token=hidden",
        usage: Callable[[dict[str, Any]], dict[str, int] | None] | None = None,
    ):
        self._answer, self._fault, self._delay, self._retry_after = answer, fault, delay, retry_after
        self._reported_usage, self._elsewhere = usage, elsewhere
        self.headers: list[dict[str, str]] = []
        self._key, self._batch_polls, self.batch_failure = key, batch_polls, batch_failure
        self.calls: list[Call] = []
        self.tries: Counter[str] = Counter()
        self.in_flight = self.max_in_flight = self.too_soon = 0
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Batch] = {}
        self._waits: list[float] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> "FakeEndpoint":
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def answered(self) -> Counter[str]:
        """Number of charged answers to each text."""
        return Counter(call.text for call in self.calls if call.tokens)

    def tokens(self) -> tuple[int, int]:
        """Charged tokens of all prompts and of all answers."""
        charged = [self._usage(call.body) for call in self.calls if call.tokens]
        return sum(each["prompt_tokens"] for each in charged), sum(each["completion_tokens"] for each in charged)

    def most_within(self, seconds: float, amount: Callable[[Call], float] = lambda call: 1) -> float:
        """The most that came in any window of this many seconds."""
        most = held = first = 0
        for call in self.calls:
            held += amount(call)
            while self.calls[first].time <= call.time - seconds:
                held -= amount(self.calls[first])
                first += 1
            most = max(most, held)
        return most

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run())

    async def _run(self) -> None:
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                if "chunked" in headers.get("transfer-encoding", ""):
                    content = await _chunks(reader)
                if not await self._respond(writer, method, path.removeprefix("/v1"), headers, content):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _respond(self, writer, method: str, path: str, headers: dict[str, str], content: bytes) -> bool:
        """Responds; returns whether the connection is kept."""
        self.headers.append(headers)
        if self._key and headers.get("authorization") != f"Bearer {self._key}":
            message = f"Incorrect API key provided: {headers.get('authorization', '')[7:]}"
            return await _send(writer, 401, {"error": {"message": message, "code": "invalid_api_key"}})
        if method == "POST" and path == "/chat/completions":
            return await self._chat(writer, json.loads(content))
        if path.startswith(("/files", "/batches")):
            found = self._batch_api(method, path.partition("?")[0], headers, content)
            return await _send(writer, 200, found)
        return await _send(writer, 404, {"error": {"message": f"no {path}"}})

    async def _chat(self, writer, body: dict[str, Any]) -> bool:
        said, now = request_text(body), time.monotonic()
        self.tries[said] += 1
        fault = self._fault(said, self.tries[said])
        self.too_soon += any(self._retry_after / 2 < now - asked < self._retry_after for asked in self._waits)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        place = len(self.calls)
        self.calls.append(Call(now, said, fault, 0, body))
        try:
            if fault == "hang":
                await asyncio.sleep(3600)
            await asyncio.sleep(self._delay)
            if body["model"] != MODEL:
                error = {"message": f"The model `{body['model']}` does not exist", "code": "model_not_found"}
                return await _send(writer, 404, {"error": error})
            if fault in ("400", "filter"):
                code = {"400": "invalid_request", "filter": "content_filter"}[fault]
                return await _send(writer, 400, {"error": {"message": "it is against the rules", "code": code}})
            if fault == "429 after":
                self._waits.append(time.monotonic())
                message = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
                return await _send(writer, 429, message, {"Retry-After": str(self._retry_after)})
            if fault in ("401", "429", "500", "503"):
                return await _send(writer, int(fault), {"error": {"message": f"trouble {fault}"}})
            if fault == "200 error":
                return await _send(writer, 200, {"error": {"message": "no upstream", "code": 502}})
            if fault == "not json":
                return await _send(writer, 200, b"<html>busy</html>")
            if fault == "no choices":
                return await _send(writer, 200, {"id": "x", "choices": []})
            if fault == "reset":
                return False
            if fault in (*HOSTILE_AGAIN, *HOSTILE_ANSWERED):
                status, content, headers, reported = self._hostile(fault, body)
                tokens = (
                    0
                    if status != 200
                    else sum(self._usage(body)[name] for name in ("prompt_tokens", "completion_tokens"))
                )
                self.calls[place] = self.calls[place]._replace(tokens=tokens, reported=reported)
                return await _send(writer, status, content, headers)
            answer = self.completion(body, fault)
            if fault == "half":
                whole = json.dumps(answer).encode()
                writer.write(_head(200, len(whole)) + whole[: len(whole) // 2])
                await writer.drain()
                return False
            reported = fault not in USAGES and answer["usage"] is not None
            usage = answer["usage"] if reported else self._usage(body)
            charged = usage["prompt_tokens"] + usage["completion_tokens"]
            self.calls[place] = self.calls[place]._replace(tokens=charged, reported=reported)
            return await _send(writer, 200, answer)
        finally:
            self.in_flight -= 1

    def completion(self, body: dict[str, Any], fault: str | None = None) -> dict[str, Any]:
        """The body of an answer."""
        message: dict[str, Any] = {"role": "assistant", "content": self._answer(body)}
        finish = "stop"
        if fault == "cut":
            finish = "length"
        elif fault == "filtered":
            message["content"], finish = "", "content_filter"
        elif fault == "declined":
            message |= {"content": None, "refusal": "I cannot help with that"}
        elif fault == "empty":
            message["content"] = "  "
        elif fault and fault.startswith("finish "):
            finish = json.loads(fault[7:]) if fault[7:].isdigit() else fault[7:]
            message["content"] = "People say s"
        choices = [{"index": 0, "message": message, "finish_reason": finish}]
        usage = USAGES[fault] if fault in USAGES else (self._reported_usage or self._usage)(body)
        if fault == "choice error":
            choices[0]["error"] = {"code": 400, "message": "\x1b[31mred\nlines"}
        return {"id": "chatcmpl-1", "model": RETURNED, "choices": choices, "usage": usage}

    def _hostile(self, fault: str, body: dict[str, Any]) -> tuple[int, bytes, dict[str, str], bool]:
        """A response's status, bytes and headers, and whether its usage can be read."""
        kind, _, rest = fault.partition(" ")
        if kind == "redirect":
            return int(rest), b"", {"Location": self._elsewhere}, False
        if kind == "429":
            return 429, b'{"error": {"message": "slow down"}}', {"Retry-After": rest}, False
        answer = self.completion(body)
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        if fault == "choice 502":
            choice |= {"finish_reason": "error", "error": {"code": 502, "message": "no upstream"}}
            choice["message"]["content"] = text[:9]
        elif fault == "no choices, usage":
            answer["choices"] = []
        elif fault == "half a character":
            choice["message"]["content"] = f"{text} \ud800"
            answer["model"] = f"{RETURNED}\udfff"
        elif fault == "model":
            answer["model"] = "a|b <script>alert(1)</script> [x](javascript:alert(1)) `\n# h"
        elif fault == "terminal":
            choice["message"]["content"] = f"\x1b[2J{text}\r\nPeople \u202esay so."
        elif fault == "think":
            choice["message"]["content"] = f"<think>\nOkay.\n</think>\n\n{text}"
        elif fault == "unopened think":
            choice["message"]["content"] = f"Okay.\n</think>\n\n{text}"
        content = json.dumps(answer).encode()
        if fault == "deep":
            content = b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        elif kind == "extra":
            number = rest if "e" in rest else "1" + "0" * 5000
            content = content[:-1] + f', "extra": {number}, "nan": NaN}}'.encode()
        elif fault == "not utf-8":
            content = content.replace(b"People", b"P\xff\xfe")
        elif fault == "list":
            content = b"[" + content + b"]"
        elif fault == "byte order mark":
            content = b"\xef\xbb\xbf" + content
        elif fault == "utf-16":
            content = content.decode().encode("utf-16")
        headers = {"Content-Type": f"application/json; charset={rest}"} if kind == "charset" else {}
        if kind == "gzip":
            packed = _bomb() * (rest == "bomb") + gzip.compress(content)
            content, headers = packed[: -9 if rest == "cut" else None], {"Content-Encoding": "gzip"}
        elif kind == "brotli":
            headers = {"Content-Encoding": "br"}
        reported = fault in (*HOSTILE_ANSWERED, "choice 502", "no choices, usage")
        return 200, content, headers, reported

    def _usage(self, body: dict[str, Any]) -> dict[str, int]:
        prompt, completion = len(json.dumps(body["messages"])) // 4, len(self._answer(body).split())
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _batch_api(self, method: str, path: str, headers: dict[str, str], content: bytes) -> Any:
        match method, path.strip("/").split("/"):
            case "POST", ["files"]:
                name = f"file-{len(self.files)}"
                self.files[name] = _form(headers, content)["file"]
                return {"id": name, "object": "file", "bytes": 0, "created_at": 0, "filename": "f", "purpose": "batch"}
            case "GET", ["files", name, "content"]:
                return self.files[name]
            case "POST", ["batches"]:
                return self._status_of(self._make_batch(json.loads(content)))
            case "GET", ["batches"]:
                return {"object": "list", "data": [*map(self._status_of, self.batches.values())], "has_more": False}
            case "GET", ["batches", name]:
                self.batches[name].polls -= 1
                return self._status_of(self.batches[name])
        raise AssertionError(path)

    def _make_batch(self, request: dict[str, Any]) -> Batch:
        """Makes a batch with its results; the faults are `expired` and those above."""
        if self.batch_failure:
            batch = Batch(
                f"batch-{len(self.batches)}", request["metadata"], "failed", 0, self.batch_failure.encode(), b""
            )
            self.batches[batch.id] = batch
            return batch
        output, errors, expired = [], [], False
        for line in self.files[request["input_file_id"]].splitlines():
            row_request = json.loads(line)
            body = row_request["body"]
            said = request_text(body)
            self.tries[said] += 1
            fault = self._fault(said, self.tries[said])
            row: dict[str, Any] = {"custom_id": row_request["custom_id"], "response": None, "error": None}
            charged = 0
            if fault == "expired":
                expired, row["error"] = True, {"code": "batch_expired", "message": "the batch expired"}
                errors.append(row)
            elif fault == "400":
                error = {"error": {"message": "it is against the rules"}}
                errors.append(row | {"response": {"status_code": 400, "body": error}})
            elif fault == "not json":
                output.append("<html>busy</html>")
            else:
                answer = self.completion(body, fault)
                charged = self._usage(body)["total_tokens"] if fault in USAGES else answer["usage"]["total_tokens"]
                if fault == "no choices, usage":
                    answer["choices"] = []
                output.append(row | {"response": {"status_code": 200, "body": answer}})
            self.calls.append(Call(time.monotonic(), said, fault, charged, body))
        files = ["\n".join(map(json.dumps, rows)).encode() for rows in (output, errors)]
        status = "expired" if expired else "completed"
        batch = Batch(f"batch-{len(self.batches)}", request.get("metadata", {}), status, self._batch_polls, *files)
        self.batches[batch.id] = batch
        return batch

    def _status_of(self, batch: Batch) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": batch.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": "f",
            "completion_window": "24h",
            "created_at": 0,
            "metadata": batch.metadata,
            "status": "in_progress",
        }
        if batch.polls > 0:
            return row
        if batch.status == "failed":
            return row | {
                "status": "failed",
                "errors": {"object": "list", "data": [{"message": batch.output.decode()}]},
            }
        for name, content in (("output_file_id", batch.output), ("error_file_id", batch.errors)):
            if content:
                self.files[f"{batch.id}-{name}"] = content
                row[name] = f"{batch.id}-{name}"
        return row | {"status": batch.status}


@functools.cache
def _bomb() -> bytes:
    return gzip.compress(b" " * BOMB)


def _head(status: int, length: int, more: dict[str, str] | None = None) -> bytes:
    headers = {"Content-Type": "application/json", "Content-Length": str(length), **(more or {})}
    return "".join([f"HTTP/1.1 {status} X\r\n", *(f"{k}: {v}\r\n" for k, v in headers.items()), "\r\n"]).encode()


async def _send(writer, status: int, answer: Any, headers: dict[str, str] | None = None) -> bool:
    content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    writer.write(_head(status, len(content), headers) + content)
    await writer.drain()
    return True


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    content = b""
    while size := int(await reader.readline(), 16):
        content += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return content


def _form(headers: dict[str, str], content: bytes) -> dict[str, bytes]:
    """The fields of a multipart form."""
    whole = f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + content
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(whole)
    return {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in message.iter_parts()
    }
