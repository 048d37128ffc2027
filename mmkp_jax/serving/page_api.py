"""What the page asks for: the models, examples, predictions and nearest training posts."""

import math
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mmkp_jax.data.prompts import MODES
from mmkp_jax.evaluation.outputs import begins_with_thought, reasoning_in
from mmkp_jax.evaluation.predictions import Prediction
from mmkp_jax.serving.inputs import check_text, image_bytes, read_json
from mmkp_jax.serving.posts import ShownPosts
from mmkp_jax.serving.refusals import Refusal
from mmkp_jax.serving.service import Service


async def info(request: Request) -> Response:
    """The models' names, the examples, and why something is missing."""
    service: Service = request.app.state.service
    posts: ShownPosts | str = request.app.state.posts
    models = [
        {"name": each.name, "source": each.source, "images": each.predictor.processor.image_token is not None}
        for each in service.models
    ]
    if isinstance(posts, str):
        return JSONResponse({"models": models, "examples": [], "without_data": posts})
    examples = await service.in_thread(lambda: posts.examples)
    return JSONResponse({"models": models, "examples": examples, "without_data": ""})


async def example(request: Request) -> Response:
    """A test post."""
    posts: ShownPosts | str = request.app.state.posts
    number = request.path_params["number"]
    found = None if isinstance(posts, str) else await request.app.state.service.in_thread(posts.example, number)
    if found is None:
        raise Refusal(404, f"there is no example {number}")
    return JSONResponse(found)


async def nearest(request: Request) -> Response:
    """The nearest training posts of a text."""
    service: Service = request.app.state.service
    posts: ShownPosts | str = request.app.state.posts
    async with service.place():
        body = _only(await read_json(request), ("text",))
        text = check_text(body.get("text"), "text")
        if isinstance(posts, str):
            raise Refusal(404, posts)
        return JSONResponse({"posts": await service.in_thread(posts.nearest, text)})


async def predict(request: Request) -> Response:
    """A model's prediction for a post, in one mode."""
    service: Service = request.app.state.service
    began = time.perf_counter()
    async with service.place():
        body = _only(await read_json(request), ("model", "text", "image", "mode"))
        number, is_post = service.model_named(body.get("model"))
        if is_post:
            raise Refusal(400, "name the model alone: its training prompt is taken here", "model")
        text = check_text(body.get("text"), "text")
        if (mode := body.get("mode", MODES[0])) not in MODES:
            raise Refusal(400, f"mode is not one of {', '.join(MODES)}", "mode")
        image = None if body.get("image") is None else image_bytes(body["image"], "image")
        if not text.strip() and image is None:
            raise Refusal(400, "the post has neither a text nor an image", "text")
        prompt, tree = await service.prepare(number, text, image, mode=mode)
        completion = (await service.complete(request, number, prompt, tree)).completion
        prediction = service.models[number].predictor.prediction(prompt, completion)
        most = service.models[number].answer_tokens
        return JSONResponse(
            {
                **_shown(prediction),
                "prompt_tokens": prompt.size.tokens + 1,
                "is_cut": len(completion.tokens) >= most,
                "seconds": round(time.perf_counter() - began, 3),
            }
        )


def _shown(prediction: Prediction) -> dict[str, Any]:
    """A prediction as the page shows it; probabilities are absent where they were not measured."""
    scores = prediction.scores
    logprobs = scores.logprob if scores else [None] * len(prediction.predicted)
    phrases = [
        {"text": text} | ({} if logprob is None else {"probability": round(math.exp(logprob), 4)})
        for text, logprob in zip(prediction.predicted, logprobs, strict=True)
    ]
    found = {
        "keyphrases": phrases,
        "mode": prediction.mode,
        "form": prediction.form,
        "thinks": begins_with_thought(prediction.output),
        "reasoning": reasoning_in(prediction.output),
        "output": prediction.output,
        "tokens": prediction.tokens,
    }
    return found if prediction.think is None else {**found, "p_think": prediction.think}


def _only(body: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    for name in body:
        if name not in known:
            raise Refusal(400, f"{name[:60]} is not one of {', '.join(known)}", name[:60])
    return body
