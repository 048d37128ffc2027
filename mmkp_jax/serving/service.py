"""What every endpoint uses: the models, the decoding thread, threads that read images, and places for requests."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request

from mmkp_jax.data.conversations import Turn
from mmkp_jax.data.forest import Tree
from mmkp_jax.data.image_files import ImageError
from mmkp_jax.data.prompts import Mode
from mmkp_jax.decoding.prompts import Prompt
from mmkp_jax.decoding.stream import TooLong
from mmkp_jax.errors import InputError
from mmkp_jax.serving.decoder import Decoder, Progress
from mmkp_jax.serving.inputs import record_of
from mmkp_jax.serving.refusals import Refusal
from mmkp_jax.serving.served import POST, Served

READERS = min(4, os.cpu_count() or 1)
"""Threads that decode images and tokenise texts."""

WAITING = 4
"""Requests that are read for each slot; the bodies of others stay with their senders, so that memory is bounded."""


class Service:
    """The models behind the endpoints; used in one event loop."""

    def __init__(self, models: Sequence[Served], decoder: Decoder, slots: int):
        self.models, self.decoder = models, decoder
        self._pool = ThreadPoolExecutor(READERS, "reader")
        self._places = asyncio.Semaphore(WAITING * slots * len(models))

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Waits until the request may be read."""
        async with self._places:
            yield

    def model_named(self, name: object) -> tuple[int, bool]:
        """A model's number, and whether its training prompt is asked for.

        Raises:
            Refusal: there is no such model.
        """
        if isinstance(name, str):
            for number, served in enumerate(self.models):
                if name in (served.name, served.name + POST):
                    return number, name != served.name
        known = ", ".join(each.name + end for each in self.models for end in ("", POST))
        raise Refusal(404, f"there is no model {str(name)[:100]!r}; there are {known}", "model")

    async def in_thread(self, function, *arguments):
        """Calls a function that computes for a while, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def prepare(
        self,
        model: int,
        text: str,
        image: bytes | None,
        *,
        mode: Mode = "auto",
        most_tokens: int | None = None,
        turns: Sequence[Turn] = (),
        param: str = "image",
    ) -> tuple[Prompt, Tree]:
        """A post, or a conversation, as the decoder takes it.

        Raises:
            Refusal: the image cannot be used, or the prompt is too long.
        """
        served = self.models[model]
        if image is not None and served.predictor.processor.image_token is None:
            raise Refusal(400, f"{served.name} takes no images", param)

        def prepared() -> tuple[Prompt, Tree]:
            record = record_of(text, image, param)
            try:
                options = dict(mode=mode, most_tokens=most_tokens, turns=turns)
                prompt, tree = served.predictor.prepare(record, **options)
                served.stream.check(prompt)
            except ImageError as error:
                raise Refusal(400, f"{param}: {error.reason}", param) from None
            except TooLong as error:
                raise Refusal(400, f"{error}; start serve with --max_prompt_tokens=N for more", param) from None
            except InputError as error:
                raise Refusal(400, str(error), param) from None
            return prompt, tree

        return await self.in_thread(prepared)

    async def complete(self, request: Request, model: int, prompt: Prompt, tree: Tree) -> Progress:
        """The complete answer.

        Raises:
            Refusal: decoding failed, or nobody waits for it any more.
        """

        async def last() -> Progress:
            async with contextlib.aclosing(self.decoder.completing(model, prompt, tree)) as progress:
                *_, each = [each async for each in progress]
            return each

        answer, gone = asyncio.ensure_future(last()), asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise Refusal(499, "the connection was closed")
            return answer.result()
        finally:
            for each in (answer, gone):
                each.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
