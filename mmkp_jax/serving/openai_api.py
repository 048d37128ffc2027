"""`/v1/models` and `/v1/chat/completions`, in OpenAI's form."""

import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mmkp_jax.data.forest import Tree
from mmkp_jax.decoding.prompts import Prompt
from mmkp_jax.decoding.slots import Completion
from mmkp_jax.evaluation.outputs import reasoning_in
from mmkp_jax.serving.chat_requests import ChatRequest, chat_request
from mmkp_jax.serving.inputs import read_json
from mmkp_jax.serving.outputs import cut_at, settled
from mmkp_jax.serving.refusals import Refusal
from mmkp_jax.serving.served import POST
from mmkp_jax.serving.service import Service

OWNER = "mmkp_jax"


async def models(request: Request) -> Response:
    """The models' ids: each alone, and with its training prompt."""
    service: Service = request.app.state.service
    ids = [each.name + end for each in service.models for end in ("", POST)]
    created = request.app.state.started
    data = [{"id": each, "object": "model", "created": created, "owned_by": OWNER} for each in ids]
    return JSONResponse({"object": "list", "data": data})


async def model(request: Request) -> Response:
    """One model."""
    service: Service = request.app.state.service
    name = request.path_params["name"]
    service.model_named(name)
    created = request.app.state.started
    return JSONResponse({"id": name, "object": "model", "created": created, "owned_by": OWNER})


async def chat_completions(request: Request) -> Response:
    """The answer to a conversation, or to a post in the training prompt."""
    service: Service = request.app.state.service
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(service.place())
        body = await read_json(request)
        number, is_post = service.model_named(body.get("model"))
        served = service.models[number]
        asked = chat_request(body, served.sampling, last_only=is_post)
        if is_post and asked.stops:
            raise Refusal(400, f"stop is not supported by {body['model']}, whose answer is the keyphrases", "stop")
        if asked.max_tokens is not None and asked.max_tokens > served.answer_tokens:
            message = (
                f"max_tokens is {asked.max_tokens:,}, more than the {served.answer_tokens:,} that there is room for"
            )
            raise Refusal(400, f"{message}; start serve with --max_tokens=N for more", "max_tokens")
        text = "\n".join(filter(None, asked.turns[-1].parts)) if is_post else ""
        turns = () if is_post else asked.turns
        options = dict(most_tokens=asked.max_tokens, turns=turns, param="messages")
        prompt, tree = await service.prepare(number, text, asked.image, **options)
        answer = _Answer(service, number, body["model"], asked, prompt, is_post)
        if asked.is_streamed:
            place = stack.pop_all()  # held until the stream ends
            return _Events(answer.events(tree), place)
        if asked.stops:
            async with contextlib.aclosing(answer.growing(tree)) as growing:
                *_, last = [each async for each in growing]
            return JSONResponse(answer.whole(*last))
        completion = (await service.complete(request, number, prompt, tree)).completion
        return JSONResponse(answer.whole(service.models[number].predictor.decode(completion.tokens), completion, False))


class _Answer:
    """One chat completion on its way out."""

    def __init__(self, service: Service, number: int, name: str, asked: ChatRequest, prompt: Prompt, is_post: bool):
        self._service, self._number, self._asked, self._prompt, self._is_post = service, number, asked, prompt, is_post
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        self._served = service.models[number]

    def whole(self, text: str, completion: Completion, is_cut: bool) -> dict[str, Any]:
        """The answer as one object."""
        content, reasoning = self._said(text, completion)
        message = {"role": "assistant", "content": content, "refusal": None}
        if reasoning:
            message["reasoning_content"] = reasoning
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason(completion, is_cut)}
        usage = self._usage(completion)
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}

    async def growing(self, tree: Tree) -> AsyncIterator[tuple[str, Completion, bool]]:
        """Yields (text that stays, completion so far, whether a stop ended it), up to the end."""
        stops = self._asked.stops
        progress = self._service.decoder.completing(self._number, self._prompt, tree, is_streamed=True)
        async with contextlib.aclosing(progress):
            async for tokens, completion, _ in progress:
                text, is_cut = cut_at(self._served.predictor.decode(tokens), stops)
                so_far = completion or Completion(0, 0, tokens)
                yield text if completion or is_cut else settled(text, stops), so_far, is_cut
                if is_cut:
                    return

    async def events(self, tree: Tree) -> AsyncIterator[str]:
        """Server-sent events; a failure after the first is one too."""
        try:
            yield self._event({"role": "assistant", "content": ""})
            sent, last = "", None
            async with contextlib.aclosing(self.growing(tree)) as growing:
                async for last in growing:
                    text = last[0]
                    if not self._is_post and len(text) > len(sent):
                        yield self._event({"content": text[len(sent) :]})
                        sent = text
            _, completion, is_cut = last
            if self._is_post:
                content, reasoning = self._said("", completion)
                if reasoning:
                    yield self._event({"reasoning_content": reasoning})
                yield self._event({"content": content})
            yield self._event({}, self._reason(completion, is_cut))
            if self._asked.with_usage:
                yield _line({**self._head, "object": _CHUNK, "choices": [], "usage": self._usage(completion)})
        except Refusal as error:
            yield _line(error.body())
        yield "data: [DONE]\n\n"

    def _said(self, text: str, completion: Completion) -> tuple[str, str]:
        """The content of the message, and the reasoning next to it; a raw output has its reasoning in it."""
        if not self._is_post:
            return text, ""
        prediction = self._served.predictor.prediction(self._prompt, completion)
        return "; ".join(prediction.predicted), reasoning_in(prediction.output) or ""

    def _reason(self, completion: Completion, is_cut: bool) -> str:
        most = min(self._prompt.most_tokens or self._served.answer_tokens, self._served.answer_tokens)
        return "length" if len(completion.tokens) >= most and not is_cut else "stop"

    def _usage(self, completion: Completion) -> dict[str, int]:
        prompt, answer = self._prompt.size.tokens + 1, len(completion.tokens)
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    def _event(self, delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _line({**self._head, "object": _CHUNK, "choices": [choice]})


class _Events(StreamingResponse):
    """Server-sent events, which hold the request's place until they end or nobody reads them."""

    def __init__(self, events: AsyncIterator[str], place: contextlib.AsyncExitStack):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._events, self._place = events, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._place, contextlib.aclosing(self._events):
            await super().__call__(scope, receive, send)


_CHUNK = "chat.completion.chunk"


def _line(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event)}\n\n"
