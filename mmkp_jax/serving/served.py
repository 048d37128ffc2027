"""The models that a server offers: each loaded and compiled once."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mmkp_jax.data.forest import RowSize
from mmkp_jax.data.posts import Record
from mmkp_jax.decoding.sampling import Sampling
from mmkp_jax.decoding.stream import Stream
from mmkp_jax.errors import InputError
from mmkp_jax.inference.predictor import Predictor, load_predictor
from mmkp_jax.runtime.escape import for_file_name, for_terminal

POST = ":post"
"""What follows a model's name where its prompt is the training prompt."""


class Options(NamedTuple):
    """How all models decode."""

    batch_size: int
    """Requests decoded at a time for each model."""
    answer_tokens: int | None
    """Most tokens of an answer; None for the model's own number."""
    room: int
    """The least tokens of a prompt that there is room for."""
    zero_shot: bool
    sampling: Sampling


class Served(NamedTuple):
    """A model under a name, with its slots."""

    name: str
    source: str
    """What it was loaded from, as the user named it."""
    predictor: Predictor
    stream: Stream
    answer_tokens: int
    sampling: Sampling


def load_all(models: Sequence[str], options: Options) -> list[Served]:
    """The models, loaded; nothing is compiled yet.

    Raises:
        InputError: one of them cannot be loaded, or is named twice.
    """
    if len(set(models)) < len(models):
        raise InputError("a model is named twice", f"--model={','.join(models)}", "name each once")
    names: list[str] = []
    for model in models:
        name = _name_of(model)
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return [_load(name, model, options) for name, model in zip(names, models, strict=True)]


def _name_of(model: str) -> str:
    """A run's or a folder's own name, with the step that follows it."""
    path, at, step = (model, "", "") if Path(model).is_dir() else model.partition("@")
    return for_file_name(Path(path).expanduser().resolve().name if Path(path).exists() else path) + at + step


def _load(name: str, model: str, options: Options) -> Served:
    print(for_terminal(f"loading {model} …"), flush=True)
    predictor = load_predictor(
        model,
        zero_shot=options.zero_shot,
        batch_size=options.batch_size,
        answer_tokens=options.answer_tokens,
        sampling=options.sampling,
    )

    def compiling(size: RowSize) -> None:
        image = ", with an image" if any(size.images.values()) else ""
        print(for_terminal(f"compiling {name} for prompts of up to {size.tokens + 1:,} tokens{image} …"), flush=True)

    stream = predictor.stream(compiling, room=options.room - 1)
    return Served(name, model, predictor, stream, predictor.answer_tokens, options.sampling)


def warm_up(served: Served) -> None:
    """Compiles all that a post without an image, and one with an image, need."""
    posts = [Record("warm", "post", b"", 0, 0, (), None)]
    if served.predictor.processor.slots:
        file = io.BytesIO()
        Image.new("RGB", (448, 448), "grey").save(file, "PNG")
        posts.append(Record("warm", "post", file.getvalue(), 448, 448, (), None))
    for post in posts:
        served.stream.add(*served.predictor.prepare(post, most_tokens=1))
        while not served.stream.is_idle:
            list(served.stream.advance())
    sys.stdout.flush()
