"""Answers of a model to posts: decoded in batches, parsed, and written a line a post."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from transformers import PreTrainedTokenizerBase

from mmkp_jax.data.examples import Recipe, tree_of
from mmkp_jax.data.forest import Geometry, RowSize, Tree, tree_size
from mmkp_jax.data.posts import Record
from mmkp_jax.decoding.greedy import make_generate, plant_prompts
from mmkp_jax.evaluation.outputs import parse_output
from mmkp_jax.models.definition import Definition, Params


class Prediction(NamedTuple):
    """One line of a predictions file (DESIGN: `.jsonl`)."""

    id: str
    keyphrases: list[str]
    predicted: list[str]
    output: str
    form: str
    tokens: int


def predict(
    definition: Definition,
    params: Params,
    records: Sequence[Record],
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int,
    answer_tokens: int,
    dtype: jnp.dtype,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Prediction]:
    """Greedy answers to every record, in order; the last batch is padded with its first post."""
    trees = [tree_of(record, recipe, ()) for record in records]
    size = prompt_size(trees, recipe.geometry)
    generate = jax.jit(
        make_generate(definition, answer_tokens=answer_tokens, end_token=recipe.template.end_token, dtype=dtype)
    )
    for start in range(0, len(records), batch_size):
        batch = trees[start : start + batch_size]
        padded = batch + batch[:1] * (batch_size - len(batch))
        answers = jax.device_get(generate(params, plant_prompts(padded, size, recipe.geometry)))
        for record, tokens, length in zip(records[start:], answers.token_BA, answers.length_B, strict=False):
            output = tokenizer.decode(tokens[:length], skip_special_tokens=False)
            predicted, form = parse_output(output)
            yield Prediction(record.id, list(record.keyphrases), predicted, output, form, int(length))
        progress(min(start + batch_size, len(records)), len(records))


def prompt_size(trees: Sequence[Tree], geometry: Geometry) -> RowSize:
    """The smallest row that holds each of the prompts."""
    sizes = [dataclasses.astuple(tree_size(tree, geometry)) for tree in trees]
    tokens, patches, windows, _, examples = map(max, zip(*sizes, strict=True))
    return RowSize(tokens + 1, patches, windows, labels=1, examples=examples)


def write_predictions(file: Path, predictions: Sequence[Prediction]) -> None:
    """The predictions file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    lines: list[dict[str, Any]] = [prediction._asdict() for prediction in predictions]
    part.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    part.replace(file)
