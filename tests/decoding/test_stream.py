"""Prompts that come while others are decoded get what they get from a generator that has them all at once."""

import dataclasses

import jax.numpy as jnp
import pytest

from mmkp_jax.data.forest import RowSize
from mmkp_jax.decoding.generate import Generator
from mmkp_jax.decoding.prompts import prompt_of
from mmkp_jax.decoding.stream import Stream, TooLong
from tests.decoding.test_generate import ANSWER_TOKENS, KINDS, MESH, OF_ANY_FAMILY, answers
from tests.support import zoo
from tests.support.trees import random_tree

STOP = range(0, 320, 11)
ROOM = RowSize(tokens=160, labels=0, examples=1, images={"patches": 256, "windows": 8})


def stream_of(definition, params, largest=ROOM, **options) -> Stream:
    settings = dict(slots=3, answer_tokens=ANSWER_TOKENS, stop_tokens=STOP, dtype=jnp.float32) | options
    sizes = []
    stream = Stream(Generator(definition, MESH, **settings), params, definition.processor, largest, sizes.append)
    stream.seen = sizes
    return stream


def completed(stream, definition, trees, turns) -> dict[int, list[int]]:
    """Completions by the prompts' places; `turns` says how many more prompts come before each sync."""
    waiting, number_of, found = list(enumerate(trees)), {}, {}
    turns = iter(turns)
    while waiting or not stream.is_idle:
        for _ in range(next(turns, len(waiting))):
            if waiting:
                place, tree = waiting.pop(0)
                number_of[stream.add(prompt_of(str(place), tree, definition.processor), tree)] = place
        for completion, ended in stream.advance():
            if ended:
                found[number_of[completion.prompt]] = completion.tokens
    return found


def test_completions_do_not_depend_on_when_prompts_come(ours):
    definition, params = ours
    trees = [random_tree(i, definition.config, **KINDS[i % len(KINDS)]) for i in range(9)]
    expected = {n: tokens for (n, _), tokens in answers(definition, params, trees, stop_tokens=STOP).items()}
    stream = stream_of(definition, params)
    assert completed(stream, definition, trees, [1, 0, 4, 1, 2]) == expected
    assert len(stream.seen) == 2  # with and without an image, whatever their sizes
    cache = [array.shape for layer in stream._session._cache for array in layer]
    assert completed(stream, definition, trees[::-1], []) == {8 - n: tokens for n, tokens in expected.items()}
    assert len(stream.seen) == 2 and cache == [array.shape for layer in stream._session._cache for array in layer]


@pytest.mark.nightly
@pytest.mark.parametrize("name, geometry", zoo.all_geometries())
def test_completions_are_those_of_every_family(name, geometry):
    model = zoo.model_of(name, geometry)
    trees = [zoo.random_tree(i, model, **kind) for i, kind in enumerate(OF_ANY_FAMILY)]
    expected = {n: each for (n, _), each in answers(model.definition, model.params, trees, stop_tokens=STOP).items()}
    processor = model.definition.processor
    sizes = [prompt_of("", tree, processor).size for tree in trees]
    images = {kind: max(size.images[kind] for size in sizes) for kind in processor.slots}
    largest = dataclasses.replace(sizes[0], tokens=max(size.tokens for size in sizes), images=images)
    assert completed(stream_of(model.definition, model.params, largest), model.definition, trees, [2, 1]) == expected


def test_a_dropped_prompt_changes_no_other(ours):
    definition, params = ours
    trees = [random_tree(i, definition.config, **KINDS[i % len(KINDS)]) for i in range(6)]
    expected = {n: tokens for (n, _), tokens in answers(definition, params, trees).items()}
    stream = stream_of(definition, params, stop_tokens=())
    numbers = [stream.add(prompt_of(str(n), tree, definition.processor), tree) for n, tree in enumerate(trees)]
    first = {completion.prompt for completion, _ in stream.advance()}
    assert first == set(numbers[:3])
    for dropped in (1, 4, 4):  # in a slot, in the queue, gone already
        stream.drop(numbers[dropped])
    found = {}
    while not stream.is_idle:
        found |= {numbers.index(each.prompt): each.tokens for each, ended in stream.advance() if ended}
    assert found == {n: expected[n] for n in (0, 2, 3, 5)}


def test_a_prompt_without_room_is_refused_and_a_restart_forgets_the_others(ours):
    definition, params = ours
    long, short = (random_tree(1, definition.config, grids=[], text=text) for text in (200, 5))
    stream = stream_of(definition, params)
    with pytest.raises(TooLong, match=r"the prompt has 20\d tokens, more than the 161"):
        stream.add(prompt_of("long", long, definition.processor), long)
    stream.add(prompt_of("short", short, definition.processor), short)
    assert [ended for _, ended in stream.advance()] in ([False], [True])
    stream.restart()
    assert stream.is_idle and list(stream.advance()) == []
