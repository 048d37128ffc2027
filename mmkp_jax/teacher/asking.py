"""Asks an endpoint many questions: none twice, none lost, and within the allowed cost."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.answers import answer_row, lost_row
from mmkp_jax.teacher.client import Client
from mmkp_jax.teacher.cost import Budget, Prices, Reservation, Usage, usage_of
from mmkp_jax.teacher.endpoint import Endpoint, Limits
from mmkp_jax.teacher.faults import Refused, Retryable, Unavailable
from mmkp_jax.teacher.progress import AskState, Patience
from mmkp_jax.teacher.questions import Question, QuestionOf, Unaskable
from mmkp_jax.teacher.store import Store

MAX_UNANSWERED = 10
"""Posts in a row without an answer after which the run ends."""


def ask_all(
    total: int,
    question_of: QuestionOf,
    endpoint: Endpoint,
    store: Store,
    *,
    limits: Limits = Limits(),  # noqa: B008, as it is frozen
    prices: Prices = Prices(),  # noqa: B008
    max_cost: float | None = None,
    retry_refused: bool = False,
    patience: Patience | None = None,
    progress: Callable[[AskState], None] = lambda run: None,
) -> AskState:
    """Asks every question whose answer is not in the store; when it returns, the store has the answers.

    Ctrl-C waits for the calls in flight and makes no new ones; a second Ctrl-C does not wait.

    Args:
        total: questions, numbered from 0.
        question_of: makes a question by its number; called in threads, and may raise `Unaskable`.
        max_cost: the most that all answers in the store may cost, those of earlier runs included; an answer or a
            failed call of unknown cost counts as the most that it may have cost.
        retry_refused: ask again what the endpoint refused to answer in an earlier run.
        patience: ends the run when the first answers are all rejected.
        progress: called after each answer.

    Raises:
        InputError: nothing can be asked, answers cannot be stored, or the first ones are all rejected.
        KeyboardInterrupt: after Ctrl-C.
    """
    run = AskState(total, spent=store.spent)
    budget = Budget(max_cost, prices, store.spent + (prices.cost(store.unpriced_tokens) or 0.0))
    asker = _Asker(run, question_of, store, budget, set(store.refused) if retry_refused else set(), progress, patience)
    if error := asyncio.run(asker.ask(endpoint, limits)):
        raise error
    return run


class _NoMoney(Exception):
    """One more call might cost more than --max_cost allows."""


class _Asker:
    def __init__(
        self,
        run: AskState,
        question_of: QuestionOf,
        store: Store,
        budget: Budget,
        again: set[str],
        progress: Callable[[AskState], None],
        patience: Patience | None,
    ):
        self._run, self._question_of, self._store, self._progress = run, question_of, store, progress
        self._patience = patience
        self._budget, self._again = budget, again
        self._numbers: Iterator[int] = iter(range(run.total))
        self._answers: dict[str, asyncio.Event] = {}  # of the calls in flight, by key: two posts may ask the same
        self._tasks: list[asyncio.Task[None]] = []
        self._error: BaseException | None = None
        self._unanswered: list[str] = []  # reasons, since the last answer

    async def ask(self, endpoint: Endpoint, limits: Limits) -> BaseException | None:
        """Asks all questions; returns the error that ended the run early, if one did."""
        async with Client(endpoint, limits) as client:
            self._client = client
            with self._interruptible():
                workers = min(limits.concurrency, max(1, self._run.total))
                self._tasks = [asyncio.create_task(self._work()) for _ in range(workers)]
                ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._run.lost, self._run.killed = client.lost, self._store.killed
        self._run.implausible = self._store.implausible
        self._run.unpriced = self._budget.prices.cost(self._store.unpriced_tokens) or 0.0
        return self._error or next((each for each in ended if isinstance(each, Exception)), None)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        loop, signals = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)

        def interrupt() -> None:
            if self._client.stopped:
                for task in self._tasks:
                    task.cancel()
            self._stop(KeyboardInterrupt())

        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # outside the main thread
            for each in signals:
                loop.add_signal_handler(each, interrupt)
        try:
            yield
        finally:
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                for each in signals:
                    loop.remove_signal_handler(each)

    def _stop(self, error: BaseException) -> None:
        """Begins no more calls; those in flight run to their end."""
        self._error = self._error or error
        self._client.stopped = True
        for task in self._tasks:
            if task not in self._client.in_flight and task is not asyncio.current_task():
                task.cancel()

    async def _work(self) -> None:
        for number in self._numbers:
            try:
                await self._answer(number)
            except (InputError, OSError) as error:
                self._stop(error if isinstance(error, InputError) else _input_error(error))
            finally:
                self._client.in_flight.discard(asyncio.current_task())
            if self._client.stopped or self._run.stopped:
                return
            self._run.last_error = self._client.last_error
            self._progress(self._run)

    async def _answer(self, number: int) -> None:
        """Makes sure that the store has the answer to a question."""
        run, store = self._run, self._store
        try:
            question = await asyncio.to_thread(self._question_of, number)
            key = run.keys[number] = question.key
            while other := self._answers.get(key):
                await other.wait()
            if key in store and key not in self._again:
                run.found += 1
                await self._weigh(number, key)
                return
            event = self._answers[key] = asyncio.Event()
            try:
                await self._ask(number, question)
            finally:
                self._again.discard(key)
                del self._answers[key]
                event.set()
            await self._weigh(number, key)
        except Unaskable as error:
            run.unaskable[number] = str(error)
        except _NoMoney:
            run.stopped = "--max_cost is reached"

    async def _weigh(self, number: int, key: str) -> None:
        """Ends the run when the first answers are all rejected."""
        row = self._store.get(key) if self._patience and not self._patience.over else None
        if row and (error := await asyncio.to_thread(self._patience.error, number, row)):
            self._stop(error)

    async def _ask(self, number: int, question: Question) -> None:
        """Asks a question, and stores the answer before anything else uses it."""
        run, store, budget, endpoint = self._run, self._store, self._budget, self._client.endpoint
        body = endpoint.body(await asyncio.to_thread(question.messages))
        reserved: Reservation | None = await self._reserve(question)
        most, usage, charged = reserved.most, None, False

        def sending() -> None:
            store.begin(question.key, question.id, most)

        async def lost(last: Retryable) -> None:
            nonlocal reserved, most
            broken, reserved = reserved, None
            await self._lose(question, broken, last)
            reserved = await self._reserve(question)
            most = reserved.most

        try:
            tokens = budget.tokens(question.prompt, endpoint.answer_tokens)
            try:
                reply = await self._client.ask(body, tokens, lost, sending)
                row = answer_row(question, reply.body, most, budget.prices, attempt=reply.attempt)
                self._unanswered.clear()
            except Refused as error:
                row = answer_row(question, None, most, budget.prices, reason=str(error), charged=error.body)
                self._no_answer(str(error))
            except Unavailable as error:
                self._no_answer(str(error))
                if not error.last.final:
                    run.unavailable[number] = str(error)
                    if error.last.charged:
                        broken, reserved = reserved, None
                        await self._lose(question, broken, error.last)
                    else:
                        store.release(question.key)
                    return
                row = answer_row(question, error.last.body, most, budget.prices)
            except InputError:
                store.release(question.key)
                raise
            usage, charged = _taken(row), row["answer"] is not None or "note" in row or row["usage"] is not None
            await store.add(row)
        finally:
            if reserved:
                await budget.settle(reserved, usage, charged=charged)
        run.asked += 1
        run.spent = store.spent

    async def _reserve(self, question: Question) -> Reservation:
        """Reserves money for a call; raises `_NoMoney` where there is not enough."""
        if reserved := await self._budget.reserve(question.prompt, self._client.endpoint.answer_tokens):
            return reserved
        raise _NoMoney

    async def _lose(self, question: Question, reserved: Reservation, last: Retryable) -> None:
        """Counts a failed call as charged: what its body reports, or the most that it may cost."""
        usage = usage_of(last.body or {}, reserved.most)
        await self._store.add(lost_row(question, last.body, reserved.most, self._budget.prices, str(last)))
        await self._budget.settle(reserved, usage, charged=True)

    def _no_answer(self, reason: str) -> None:
        self._unanswered.append(reason)
        if len(self._unanswered) >= MAX_UNANSWERED and not self._client.stopped:
            what = f"{MAX_UNANSWERED} posts in a row got no answer (the last: {reason})"
            hint = "fix that; the same command continues, and asks refused posts again with --retry_refused"
            self._stop(InputError(what, self._client.endpoint.base_url, hint))


def _taken(row: dict[str, Any]) -> Usage | None:
    return row["usage"] and Usage(**row["usage"])


def _input_error(error: OSError) -> InputError:
    return InputError(
        str(error.strerror or error), str(error.filename or "the posts"), "fix that; the same command continues"
    )
