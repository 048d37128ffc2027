"""Asks questions through the Batch API: files of requests, answered within a day, often at half the price.

A batch is recorded in the store before and after it is made: a killed command finds its batches again by name, also one
that was made just before the kill. Every answer of a batch goes into the store, also one to a post or a prompt that the
command does not ask about now. Under --max_cost, the first question with an image is asked by a single call, whose
usage shows how the endpoint counts images.
"""

import asyncio
import itertools
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.answers import answer_row, lost_row, message_of, one_line, usage_in
from mmkp_jax.teacher.batch_results import Results
from mmkp_jax.teacher.bodies import NotJson, read_body
from mmkp_jax.teacher.client import CHAT, Client, Reply
from mmkp_jax.teacher.cost import Budget, Prices, Usage
from mmkp_jax.teacher.endpoint import BATCH_SIZE, Endpoint, Limits
from mmkp_jax.teacher.faults import Refused, Retryable, Unavailable
from mmkp_jax.teacher.progress import AskState
from mmkp_jax.teacher.questions import Question, QuestionOf, Unaskable
from mmkp_jax.teacher.store import Store

BATCH_BYTES = 190_000_000
"""Largest file of requests; OpenAI takes 200 MB."""
POLL_EVERY = 60.0
"""Seconds between polls of a batch's status."""
TRANSFER = 900.0
"""Timeout of a file's transfer, in seconds."""
ROWS_AT_A_TIME = 1_000
"""Answers that are written to the disk together."""

ENDED = ("completed", "failed", "expired", "cancelled")
METADATA = "mmkp_jax"


def ask_in_batches(
    total: int,
    question_of: QuestionOf,
    endpoint: Endpoint,
    store: Store,
    *,
    most: int = BATCH_SIZE,
    prices: Prices = Prices(),  # noqa: B008, as it is frozen
    max_cost: float | None = None,
    progress: Callable[[AskState], None] = lambda run: None,
    limits: Limits = Limits(),  # noqa: B008
    poll_every: float = POLL_EVERY,
) -> AskState:
    """Asks like `asking.ask_all`, in batches of at most `most` requests; returns when all of them have ended.

    An expired batch's answers are stored; the same command asks for the rest.

    Raises:
        InputError: nothing can be asked, a batch was not accepted, or answers cannot be stored.
    """
    run = AskState(total, spent=store.spent)
    asker = _Batches(run, question_of, store, prices, max_cost, progress)
    asyncio.run(asker.ask(endpoint, limits, most, poll_every))
    return run


class _Batches:
    def __init__(
        self,
        run: AskState,
        question_of: QuestionOf,
        store: Store,
        prices: Prices,
        max_cost: float | None,
        progress: Callable[[AskState], None],
    ):
        self._run, self._question_of, self._store = run, question_of, store
        self._prices, self._max_cost, self._progress = prices, max_cost, progress
        self._budget = Budget(max_cost, prices)
        self._number: dict[str, int] = {}  # the first question of each key

    async def ask(self, endpoint: Endpoint, limits: Limits, most: int, poll_every: float) -> None:
        for number in range(self._run.total):
            try:
                question = self._question_of(number)
                key = self._run.keys[number] = question.key
            except Unaskable as error:
                self._run.unaskable[number] = str(error)
                continue
            self._number.setdefault(key, number)
            self._run.found += key in self._store
            if self._max_cost is not None and (row := self._store.get(key)) and (usage := usage_in(row)):
                self._budget.learn(question.prompt, usage)
        self._progress(self._run)
        async with Client(endpoint, limits) as client:
            self._client, self._raw = client, _Raw(client.sdk)
            await self._adopt()
            pending = {key: Usage(**asked["most"]) for row in self._open() for key, asked in _requests(row).items()}
            left = [key for key in self._number if key not in self._store and key not in pending]
            held = sum(map(self._price, pending.values()))
            if self._max_cost is not None:
                await self._first_image(left, held, limits)
            for name, file, requests in self._files(left, self._spent() + held, most):
                await self._submit(name, file, requests)
            while waiting := self._open():
                for row in waiting:
                    await self._collect(row)
                if self._open():
                    await asyncio.sleep(poll_every)
        self._run.lost, self._run.spent = client.lost, self._store.spent
        self._run.killed, self._run.implausible = self._store.killed, self._store.implausible
        self._run.unpriced = self._price(self._store.unpriced_tokens)
        for number, key in self._run.keys.items():
            if key not in self._store and number not in self._run.unaskable and not self._run.stopped:
                self._run.unavailable.setdefault(number, "its batch ended without an answer to it")
        self._progress(self._run)

    def _open(self) -> list[dict[str, Any]]:
        """Batches that were submitted and not collected yet."""
        return [row for row in self._store.batches.values() if row["state"] == "submitted"]

    async def _adopt(self) -> None:
        """Finds the batches that a killed command may have made."""
        lost = {name for name, row in self._store.batches.items() if row["state"] == "intended"}
        if not lost:
            return

        there: dict[str, str] = {}
        after: Any = None
        while True:
            options = {"limit": 100} | ({"after": after} if after else {})
            page = await self._object(lambda options=options: self._raw.batches.list(**options))
            listed = [each for each in _list(page.get("data")) if isinstance(each, dict)]
            for each in listed:
                if isinstance(each.get("id"), str) and isinstance(each.get("metadata"), dict):
                    there[str(each["metadata"].get(METADATA))] = each["id"]
            last = listed[-1].get("id") if listed else None
            if page.get("has_more") is not True or not isinstance(last, str) or last == after:
                break
            after = last
        for name in lost:
            state = {"state": "submitted", "id": there[name]} if name in there else {"state": "collected"}
            await self._store.add({"batch": name, **state})

    async def _first_image(self, left: list[str], held: float, limits: Limits) -> None:
        """Asks the first remaining question whose price cannot be bounded yet."""
        questions = (self._question_of(self._number[key]) for key in left)
        question = next((each for each in questions if not self._budget.knows(each.prompt)), None)
        most = question and self._most(question)
        if question is None or self._spent() + held + self._price(most) > self._max_cost:
            return

        def sending() -> None:
            self._store.begin(question.key, question.id, most)

        async def lost(last: Retryable) -> None:
            await self._store.add(lost_row(question, last.body, most, self._prices, str(last)))

        try:
            body = self._client.endpoint.body(question.messages())
            reply = await self._client.ask(body, sum(most), lost, sending)
        except (Unaskable, Refused) as error:
            await self._end(question, most, getattr(error, "body", None), str(error), charged=False)
            what, hint = f"the first post with an image cannot be asked about ({error})", "leave it out, or --max_cost"
            raise InputError(what, question.id, hint) from None
        except Unavailable as error:
            last = error.last
            if not last.final:
                await self._end(question, most, last.body, str(last), charged=last.charged)
                what, where = f"the endpoint does not answer ({last})", self._client.endpoint.base_url
                raise InputError(what, where, "the same command continues") from None
            reply = Reply(last.body or {}, limits.attempts)
        except InputError:
            self._store.release(question.key)
            raise
        row = answer_row(question, reply.body, most, self._prices, attempt=reply.attempt)
        await self._store.add(row)
        if usage := usage_in(row):
            self._budget.learn(question.prompt, usage)
        self._run.asked += 1
        left.remove(question.key)

    async def _end(self, question: Question, most: Usage, body: Any, reason: str, *, charged: bool) -> None:
        """Counts a failed call, if it was or may have been charged."""
        if charged or (body or {}).get("usage") is not None:
            await self._store.add(lost_row(question, body, most, self._prices, reason))
        else:
            self._store.release(question.key)

    def _spent(self) -> float:
        return self._store.spent + self._price(self._store.unpriced_tokens)

    def _most(self, question: Question) -> Usage:
        """The most tokens that a call may take."""
        return Usage(self._budget.tokens(question.prompt, 0), self._client.endpoint.answer_tokens)

    def _files(self, keys: Sequence[str], spent: float, most: int) -> Iterator[tuple[str, Path, dict[str, Any]]]:
        """Yields (name, file, requests) of each batch to make, within the allowed cost; `requests` holds `id`, `asked`
        and `most` tokens by key. The file exists until the next one is made.
        """
        left = iter(keys)
        ended = False
        while not ended:
            name = uuid.uuid4().hex
            file = self._store.file.with_name(f"{self._store.file.name}.{name}.part")
            taken: dict[str, Any] = {}
            try:
                with file.open("wb") as lines:
                    while len(taken) < most and lines.tell() < BATCH_BYTES:
                        if (key := next(left, None)) is None:
                            ended = True
                            break
                        question = self._question_of(self._number[key])
                        tokens = self._most(question)
                        spent += self._price(tokens)
                        if self._max_cost is not None and spent > self._max_cost:
                            self._run.stopped, ended = "--max_cost is reached", True
                            break
                        try:
                            lines.write(_request(key, self._client.endpoint.body(question.messages())))
                        except Unaskable as error:
                            self._run.unaskable[self._number[key]] = str(error)
                        else:
                            taken[key] = {"id": question.id, "asked": question.content, "most": tokens._asdict()}
                if taken:
                    yield name, file, taken
            except OSError as error:
                what, hint = f"a batch cannot be written ({error.strerror})", "check free space and permissions"
                raise InputError(what, str(file), hint) from error
            finally:
                file.unlink(missing_ok=True)

    def _price(self, tokens: Usage) -> float:
        return self._prices.cost(tokens) or 0.0

    async def _submit(self, name: str, file: Path, requests: dict[str, Any]) -> None:
        uploaded = await self._object(lambda: self._raw.files.create(file=file, purpose="batch"))
        file_id = self._text(uploaded, "id")
        await self._store.add({"batch": name, "state": "intended", "requests": requests})

        async def make() -> bytes:
            response = await self._raw.batches.create(
                input_file_id=file_id,
                endpoint=f"/v1{CHAT}",
                completion_window="24h",
                metadata={METADATA: name},
            )
            return response.content

        try:
            made = self._text(read_body(await self._client.request_once(make, TRANSFER)), "id")
        except (Retryable, Refused, NotJson) as error:
            if isinstance(error, Refused):
                await self._store.add({"batch": name, "state": "collected"})
            what = f"the endpoint did not accept a batch ({error})"
            raise InputError(what, self._client.endpoint.base_url, "the same command continues") from None
        await self._store.add({"batch": name, "state": "submitted", "id": made})

    async def _collect(self, row: dict[str, Any]) -> None:
        """Stores the answers of a batch that has ended."""
        batch = await self._object(lambda: self._raw.batches.retrieve(row["id"]))
        if (status := batch.get("status")) not in ENDED:
            self._run.last_error = one_line(f"batch {row['id']}: {status if isinstance(status, str) else 'no status'}")
            self._progress(self._run)
            return
        results = Results(_requests(row), self._store, self._client, self._prices)
        files = (batch.get("output_file_id"), batch.get("error_file_id"))
        for file in (each for each in files if isinstance(each, str) and each):
            content = await self._bytes(lambda file=file: self._raw.files.content(file))
            rows = filter(None, map(results.row, content.splitlines()))
            while some := list(itertools.islice(rows, ROWS_AT_A_TIME)):
                await asyncio.gather(*map(self._store.add, some))
                self._run.asked += sum(each.get("key") in self._number for each in some)
                self._run.spent = self._store.spent
                self._progress(self._run)
        await asyncio.gather(*map(self._store.add, results.lost(self._store)))
        self._client.lost += results.unread
        for key in self._number.keys() & results.reasons.keys():
            self._run.unavailable[self._number[key]] = results.reasons[key]
        await self._store.add({"batch": row["batch"], "state": "collected"})
        if status == "failed":
            errors = batch.get("errors")
            reasons = [message_of(each) for each in _list(errors.get("data") if isinstance(errors, dict) else None)]
            what = (
                f"the endpoint refused a batch ({'; '.join(list(filter(None, reasons))[:3]) or 'it gives no reason'})"
            )
            hint = "fix that, or give a smaller --batch_size; the same command continues"
            raise InputError(what, one_line(row["id"]), hint)

    async def _object(self, request: Callable[[], Any]) -> dict[str, Any]:
        """The JSON object in a response."""
        content = await self._bytes(request)
        try:
            return read_body(content)
        except NotJson as error:
            raise self._not_answered(error) from None

    async def _bytes(self, request: Callable[[], Any]) -> bytes:
        async def content() -> bytes:
            return (await request()).content

        try:
            return await self._client.request_with_retries(content, TRANSFER)
        except (Unavailable, Refused) as error:
            raise self._not_answered(error) from None

    def _text(self, body: dict[str, Any], name: str) -> str:
        if isinstance(value := body.get(name), str) and value:
            return value
        raise self._not_answered(f"it gives no {name}")

    def _not_answered(self, reason: object) -> InputError:
        hint = "the same command continues; or leave --batch out"
        return InputError(f"the Batch API does not answer ({reason})", self._client.endpoint.base_url, hint)


class _Raw:
    """The SDK's calls that return unparsed responses."""

    def __init__(self, sdk: Any):
        self.files, self.batches = sdk.files.with_raw_response, sdk.batches.with_raw_response


def _requests(row: dict[str, Any]) -> dict[str, Any]:
    return row.get("requests", {})


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _request(key: str, body: dict[str, Any]) -> bytes:
    return json.dumps({"custom_id": key, "method": "POST", "url": f"/v1{CHAT}", "body": body}).encode() + b"\n"
