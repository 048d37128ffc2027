"""The same questions through the Batch API: files of requests, answered within a day, at half the price elsewhere.

What is known of a batch is in the store before and after it is made: a killed command finds its batches again, also one
that was made in the moment of the kill, by the name that it carries. Every answer of a batch goes into the store, also
one to a post, or a prompt, that the command is not asked about now. Under a limit of money, the first question with an
image is asked by a call of its own, whose usage tells how the endpoint counts images.
"""

import asyncio
import itertools
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.answers import row_of
from mmkp_jax.teacher.client import CHAT, Again, Client, Refused, Unavailable
from mmkp_jax.teacher.cost import Budget, Prices, Usage
from mmkp_jax.teacher.endpoint import BATCH_SIZE, Endpoint, Limits
from mmkp_jax.teacher.progress import Run
from mmkp_jax.teacher.questions import Asked, Question, QuestionOf, Unaskable
from mmkp_jax.teacher.store import Store

BATCH_BYTES = 190_000_000
"""Of a file; OpenAI takes 200 MB."""
POLL_EVERY = 60.0
"""Seconds."""
TRANSFER = 900.0
"""Seconds until the transfer of a file is given up."""
ROWS_AT_A_TIME = 1_000
"""Answers that go to the disk together."""

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
    progress: Callable[[Run], None] = lambda run: None,
    limits: Limits = Limits(),  # noqa: B008
    poll_every: float = POLL_EVERY,
) -> Run:
    """As `asking.ask_all`, but by batches of at most `most` requests; returns when all of them have ended.

    What an expired batch has answered is taken; the same command asks for the rest.

    Raises:
        InputError: nothing can be asked, a batch was not accepted, or answers cannot be kept.
    """
    run = Run(total, spent=store.spent)
    asker = _Batches(run, question_of, store, prices, max_cost, progress)
    asyncio.run(asker.ask(endpoint, limits, most, poll_every))
    return run


class _Batches:
    def __init__(
        self,
        run: Run,
        question_of: QuestionOf,
        store: Store,
        prices: Prices,
        max_cost: float | None,
        progress: Callable[[Run], None],
    ):
        self._run, self._question_of, self._store = run, question_of, store
        self._prices, self._max_cost, self._progress = prices, max_cost, progress
        self._budget = Budget(max_cost, prices)
        self._number: dict[str, int] = {}  # of the first question with a key

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
            if self._max_cost is not None and (row := self._store.get(key)) and row["usage"]:
                self._budget.learn(question.prompt, Usage(**row["usage"]))
        self._progress(self._run)
        async with Client(endpoint, limits) as client:
            self._client = client
            await self._adopt()
            pending = {key: Usage(**asked["most"]) for row in self._open() for key, asked in row["requests"].items()}
            left = [key for key in self._number if key not in self._store and key not in pending]
            held = sum(map(self._price, pending.values()))
            if self._max_cost is not None:
                await self._first_image(left, held)
            for name, file, requests in self._files(left, self._spent() + held, most):
                await self._submit(name, file, requests)
            while waiting := self._open():
                for row in waiting:
                    await self._collect(row)
                if self._open():
                    await asyncio.sleep(poll_every)
        self._run.lost, self._run.spent = client.lost, self._store.spent
        self._run.unpriced = self._price(self._store.unpriced_tokens)
        for number, key in self._run.keys.items():
            if key not in self._store and number not in self._run.unaskable and not self._run.stopped:
                self._run.unavailable.setdefault(number, "its batch ended without an answer to it")
        self._progress(self._run)

    def _open(self) -> list[dict[str, Any]]:
        """The batches that the endpoint has and that were not collected."""
        return [row for row in self._store.batches.values() if row["state"] == "submitted"]

    async def _adopt(self) -> None:
        """Finds the batches that a killed command may have made."""
        lost = {name for name, row in self._store.batches.items() if row["state"] == "intended"}
        if not lost:
            return

        async def listed() -> dict[str, str]:
            return {
                (each.metadata or {}).get(METADATA): each.id async for each in self._client.sdk.batches.list(limit=100)
            }

        there = await self._repeated(listed)
        for name in lost:
            state = {"state": "submitted", "id": there[name]} if name in there else {"state": "collected"}
            await self._store.add({"batch": name, **state})

    async def _first_image(self, left: list[str], held: float) -> None:
        """Asks the first question of those that are left whose price cannot be bounded yet."""
        questions = (self._question_of(self._number[key]) for key in left)
        question = next((each for each in questions if not self._budget.knows(each.prompt)), None)
        most = question and self._most(question)
        if question is None or self._spent() + held + self._price(most) > self._max_cost:
            return
        try:
            body = self._client.endpoint.body(question.messages())
            reply = await self._client.ask(body, sum(most))
        except (Unaskable, Refused) as error:
            what, mend = f"the first post with an image cannot be asked about ({error})", "leave it out, or --max_cost"
            raise InputError(what, question.id, mend) from None
        except Unavailable as error:
            mend = "the same command goes on"
            raise InputError(f"the endpoint does not answer ({error})", self._client.endpoint.base_url, mend) from None
        row = row_of(question, reply.body, most, self._prices, attempt=reply.attempt)
        await self._store.add(row)
        if row["usage"]:
            self._budget.learn(question.prompt, Usage(**row["usage"]))
        self._run.asked += 1
        left.remove(question.key)

    def _spent(self) -> float:
        return self._store.spent + self._price(self._store.unpriced_tokens)

    def _most(self, question: Question) -> Usage:
        """Tokens that an answer may take."""
        return Usage(self._budget.tokens(question.prompt, 0), self._client.endpoint.answer_tokens)

    def _files(self, keys: Sequence[str], spent: float, most: int) -> Iterator[tuple[str, Path, dict[str, Any]]]:
        """(name, file, requests) of each batch to make, within what may be spent; a request is told by `id`, `asked`
        and `most` tokens, by key. The file is there until the next one.
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
                            taken[key] = {"id": question.id, "asked": question.asked, "most": tokens._asdict()}
                if taken:
                    yield name, file, taken
            except OSError as error:
                what, mend = f"a batch cannot be written ({error.strerror})", "see to space and permissions"
                raise InputError(what, str(file), mend) from error
            finally:
                file.unlink(missing_ok=True)

    def _price(self, tokens: Usage) -> float:
        return self._prices.of(tokens) or 0.0

    async def _submit(self, name: str, file: Path, requests: dict[str, Any]) -> None:
        sdk = self._client.sdk
        uploaded = await self._repeated(lambda: sdk.files.create(file=file, purpose="batch"))
        await self._store.add({"batch": name, "state": "intended", "requests": requests})

        def make() -> Any:
            return sdk.batches.create(
                input_file_id=uploaded.id,
                endpoint=f"/v1{CHAT}",
                completion_window="24h",
                metadata={METADATA: name},
            )

        try:
            made = await self._client.response(make, TRANSFER)
        except (Again, Refused) as error:
            if isinstance(error, Refused):
                await self._store.add({"batch": name, "state": "collected"})
            what = f"the endpoint did not take a batch ({error})"
            raise InputError(what, self._client.endpoint.base_url, "the same command goes on") from None
        await self._store.add({"batch": name, "state": "submitted", "id": made.id})

    async def _collect(self, row: dict[str, Any]) -> None:
        """Takes the answers of a batch that has ended."""
        sdk = self._client.sdk
        batch = await self._repeated(lambda: sdk.batches.retrieve(row["id"]))
        if batch.status not in ENDED:
            self._run.trouble = f"batch {batch.id}: {batch.status}"
            self._progress(self._run)
            return
        for file in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = await self._repeated(lambda file=file: sdk.files.content(file))
            told = (self._answer(line, row["requests"]) for line in content.content.splitlines())
            rows = filter(None, told)
            while some := list(itertools.islice(rows, ROWS_AT_A_TIME)):
                await asyncio.gather(*map(self._store.add, some))
                self._run.asked += sum(each["key"] in self._number for each in some)
                self._run.spent = self._store.spent
                self._progress(self._run)
        await self._store.add({"batch": row["batch"], "state": "collected"})
        if batch.status == "failed":
            reasons = [each.message for each in (batch.errors and batch.errors.data) or []]
            what = f"the endpoint refused a batch ({'; '.join(filter(None, reasons[:3])) or 'it gives no reason'})"
            raise InputError(what, batch.id, "see to that, or give a smaller --batch_size; the same command goes on")

    def _answer(self, line: bytes, requests: dict[str, Any]) -> dict[str, Any] | None:
        """The store's row of one line of results; None where the store has it, or it is none."""
        try:
            told = json.loads(line)
            key, response = told["custom_id"], told.get("response") or {}
            request = requests.get(key)
        except (ValueError, KeyError, TypeError, AttributeError):
            self._client.lost += 1
            return None
        if request is None or key in self._store:
            return None
        asked, most = Asked(request["id"], request["asked"]), Usage(**request["most"])
        body = response.get("body")
        try:
            if response.get("status_code") == 200:
                body = self._client.whole(json.dumps(body))
                return row_of(asked, body, most, self._prices)
            if response:
                error = body.get("error") if isinstance(body, dict) else body
                raise self._client.status_error(int(response["status_code"]), error, "", {})
            reason = str((told.get("error") or {}).get("message") or "no answer")
        except Refused as error:
            return row_of(asked, None, most, reason=str(error))
        except (Again, InputError) as error:
            reason = str(error)
        if key in self._number:
            self._run.unavailable[self._number[key]] = reason
        return None

    async def _repeated(self, request: Callable[[], Any]) -> Any:
        try:
            return await self._client.repeated(request, TRANSFER)
        except (Unavailable, Refused) as error:
            what, mend = f"the Batch API does not answer ({error})", "the same command goes on; or leave --batch out"
            raise InputError(what, self._client.endpoint.base_url, mend) from None


def _request(key: str, body: dict[str, Any]) -> bytes:
    return json.dumps({"custom_id": key, "method": "POST", "url": f"/v1{CHAT}", "body": body}).encode() + b"\n"
