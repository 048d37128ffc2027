"""The one thread that decodes: requests of all models join those that are being decoded."""

import asyncio
import contextlib
import dataclasses
import queue
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from mmkp_jax.data.forest import Tree
from mmkp_jax.decoding.prompts import Prompt
from mmkp_jax.decoding.slots import Completion
from mmkp_jax.serving.refusals import Refusal
from mmkp_jax.serving.served import Served


class Progress(NamedTuple):
    """What a request has so far."""

    tokens: list[int]
    completion: Completion | None = None
    """The complete answer; None before its end."""
    failed: str = ""
    """Why there is none; empty if there is."""


@dataclasses.dataclass(eq=False)
class Job:
    """One completion that is asked for."""

    model: int
    """Number of the model."""
    prompt: Prompt
    tree: Tree
    notify: Callable[[Progress], None]
    """Called in the decoding thread."""
    is_streamed: bool = False
    """Whether `notify` is also called before the end."""


class Decoder:
    """Decodes jobs in a thread of its own, between `start` and `stop`."""

    def __init__(self, models: Sequence[Served]):
        self._models = models
        self._inbox: queue.SimpleQueue[tuple[str, Job | None]] = queue.SimpleQueue()
        self._jobs: list[dict[int, Job]] = [{} for _ in models]
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self.failure = ""
        """Why nothing is decoded any more; empty as long as it is."""
        self.served = 0
        """Completions so far."""

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, and waits for it; unfinished jobs are refused."""
        self._inbox.put(("stop", None))
        self._thread.join()

    def submit(self, job: Job) -> None:
        """Adds a job; may be called from any thread."""
        self._inbox.put(("add", job))

    def drop(self, job: Job) -> None:
        """Ends a job that nobody waits for; may be called from any thread, and after its end."""
        self._inbox.put(("drop", job))

    async def completing(
        self, model: int, prompt: Prompt, tree: Tree, *, is_streamed: bool = False
    ) -> AsyncIterator[Progress]:
        """Yields the progress of a completion up to its end, the last with the completion; closing it ends the job.

        Raises:
            Refusal: decoding failed.
        """
        loop, found = asyncio.get_running_loop(), asyncio.Queue[Progress]()

        def notify(progress: Progress) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(found.put_nowait, progress)

        job = Job(model, prompt, tree, notify, is_streamed)
        self.submit(job)
        try:
            if self.failure:  # the thread may not read the job any more
                raise Refusal(503, self.failure)
            while True:
                progress = await found.get()
                if progress.failed:
                    raise Refusal(500, progress.failed)
                yield progress
                if progress.completion:
                    return
        finally:
            self.drop(job)

    def _run(self) -> None:
        try:
            while self._receive():
                for model in range(len(self._models)):
                    self._advance(model)
        except Exception as error:
            traceback.print_exc()
            self.failure = f"the model is no longer decoded ({type(error).__name__}); start the server again"
        self.failure = self.failure or "the server stops"
        with contextlib.suppress(queue.Empty):
            while True:
                what, job = self._inbox.get_nowait()
                if what == "add":
                    job.notify(Progress([], None, self.failure))
        for model in range(len(self._models)):
            self._fail(model, self.failure)

    def _receive(self) -> bool:
        """Takes what has come since the last time; waits if nothing is being decoded. False at the end."""
        is_idle = not any(self._jobs)
        while True:
            try:
                what, job = self._inbox.get(block=is_idle)
            except queue.Empty:
                return True
            is_idle = False
            if job is None:
                return False
            stream, jobs = self._models[job.model].stream, self._jobs[job.model]
            if what == "add":
                jobs[stream.add(job.prompt, job.tree)] = job
                job.tree = None  # the stream has it until it is prefilled
            else:
                for number in [number for number, each in jobs.items() if each is job]:
                    stream.drop(number)
                    del jobs[number]

    def _advance(self, model: int) -> None:
        stream, jobs = self._models[model].stream, self._jobs[model]
        try:
            updates = list(stream.advance()) if jobs else []
        except Exception as error:  # of the device, such as a lack of memory
            traceback.print_exc()
            self._fail(model, f"decoding failed ({type(error).__name__}); ask again")
            stream.restart()
            return
        for completion, ended in updates:
            job = jobs[completion.prompt]
            if ended:
                self.served += 1
                del jobs[completion.prompt]
                job.notify(Progress(completion.tokens, completion))
            elif job.is_streamed:
                job.notify(Progress(list(completion.tokens)))

    def _fail(self, model: int, reason: str) -> None:
        jobs = self._jobs[model]
        while jobs:
            _, job = jobs.popitem()
            job.notify(Progress([], None, reason))
