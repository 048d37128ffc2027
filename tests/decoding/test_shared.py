"""Prompts that share a trunk are prefilled once, and get what they get alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.prompts import MODES
from mmkp_jax.decoding.generate import Completion, Generator, Session
from mmkp_jax.decoding.prompts import Prompt, name_trunk, prompt_of, with_equal_trunks
from mmkp_jax.decoding.stream import Stream
from tests.decoding.test_generate import ANSWER_TOKENS, KINDS, MESH, OF_ANY_FAMILY
from tests.decoding.test_stream import ROOM
from tests.support import zoo
from tests.support.trees import random_tree

OPENING = (17, 230)
STOP = [each for each in range(0, 320, 11) if each not in OPENING]


def generator_of(definition) -> Generator:
    settings = dict(answer_tokens=ANSWER_TOKENS, stop_tokens=STOP, dtype=jnp.float32, opening=OPENING)
    return Generator(definition, MESH, slots=3, **settings)


@pytest.fixture(scope="module")
def generator(ours) -> Generator:
    definition, _ = ours
    return generator_of(definition)


def in_every_mode(definition, trees) -> list[tuple[int, Prompt]]:
    """The trees' numbers and prompts, the modes of each far from each other."""
    prompts = [prompt_of(str(n), tree, definition.processor) for n, tree in enumerate(trees)]
    named = [
        prompt._replace(trunk=name_trunk(tree.prompt, [pixels.tobytes() for pixels in tree.pixels]))
        for prompt, tree in zip(prompts, trees, strict=True)
    ]
    return [(n, prompt._replace(mode=mode)) for mode in MODES for n, prompt in enumerate(named)]


def check_shared(generator, definition, params, trees):
    """Slots are filled again, since there are fewer than completions, which end at different times."""
    asked, loaded = in_every_mode(definition, trees), []

    def completed(prompts, num_samples=2) -> dict[tuple[int, int], Completion]:
        def load(which):
            loaded.append(asked[which][0])
            return trees[asked[which][0]]

        found = generator(params, prompts, load, num_samples)
        return {(each.prompt, each.sample): each for each in found}

    apart = completed([prompt._replace(trunk=b"") for _, prompt in asked])
    assert sorted(loaded) == sorted(n for n, _ in asked)
    loaded.clear()
    shared = completed([prompt for _, prompt in asked])
    assert sorted(loaded) == list(range(len(trees)))
    assert shared.keys() == apart.keys() and len({len(each.tokens) for each in apart.values()}) > 2
    for key, each in apart.items():
        assert shared[key].tokens == each.tokens
        np.testing.assert_allclose(shared[key].logprobs, each.logprobs, rtol=0, atol=1e-5)
        np.testing.assert_allclose(shared[key].state_D, each.state_D, rtol=0, atol=1e-4)
        assert shared[key].think == pytest.approx(each.think, rel=1e-4)


def test_prompts_that_share_a_trunk_are_prefilled_once_and_answered_as_apart(ours, generator):
    definition, params = ours
    trees = [random_tree(i, definition.config, **KINDS[i % len(KINDS)]) for i in range(5)]
    check_shared(generator, definition, params, trees)


@pytest.mark.nightly
@pytest.mark.parametrize("name, geometry", zoo.all_geometries())
def test_prompts_of_every_family_share_their_trunks(name, geometry):
    model = zoo.model_of(name, geometry)
    trees = [zoo.random_tree(i, model, **kind) for i, kind in enumerate(OF_ANY_FAMILY)]
    check_shared(generator_of(model.definition), model.definition, model.params, trees)


def test_trunks_are_equal_by_tokens_and_images(ours):
    definition, _ = ours
    tree = random_tree(0, definition.config, **KINDS[0])
    names = {
        name_trunk(tree.prompt, [b"one"]),
        name_trunk(tree.prompt, [b"other"]),
        name_trunk(tree.prompt, []),
        name_trunk(tree.prompt, [b"on", b"e"]),
        name_trunk(tree.prompt[1:], [b"one"]),
    }
    assert len(names) == 5 and name_trunk(tree.prompt.astype(np.int64), [b"one"]) in names
    prompts = [
        prompt_of("x", tree, definition.processor)._replace(trunk=trunk) for trunk in (b"a", b"", b"b", b"a", b"")
    ]
    assert with_equal_trunks(prompts) == [[0, 3], [1], [2], [4]]


@pytest.mark.parametrize("gone, without", [({1}, set()), ({1, 4, 7}, {1})])
def test_a_trunk_is_loaded_by_any_of_its_prompts_or_none_has_a_completion(ours, generator, gone, without):
    definition, params = ours
    trees = [random_tree(i, definition.config, **KINDS[i % 3]) for i in range(3)]
    asked = in_every_mode(definition, trees)
    found = list(generator(params, [p for _, p in asked], lambda n: None if n in gone else trees[asked[n][0]]))
    assert sorted(each.prompt for each in found) == list(range(9))
    assert {asked[each.prompt][0] for each in found if each.tokens is None} == without
    assert sum(each.tokens is None for each in found) == 3 * len(without)


def test_a_stream_prefills_what_it_still_has_no_second_time(ours, generator, monkeypatch):
    """Asked one after the other, as the page does, or at a time, more than there are slots."""
    definition, params = ours
    trees = [random_tree(i, definition.config, **KINDS[i]) for i in (1, 2)]
    asked = in_every_mode(definition, trees)
    found = generator(params, [prompt for _, prompt in asked], lambda which: trees[asked[which][0]])
    expected = {each.prompt: each.tokens for each in found}
    prefilled, prefill = [], Session.prefill
    monkeypatch.setattr(Session, "prefill", lambda self, forest: prefilled.append(1) or prefill(self, forest))

    def answered(stream, numbers) -> dict[int, list[int]]:
        place = {stream.add(asked[n][1], trees[asked[n][0]]): n for n in numbers}
        ended = {}
        while not stream.is_idle:
            ended |= {place[each.prompt]: each.tokens for each, over in stream.advance() if over}
        return ended

    order = [0, 2, 4, 1, 3, 5]  # the modes of one post, then of the other
    stream = Stream(generator, params, definition.processor, ROOM)
    assert [answered(stream, [n])[n] for n in order] == [expected[n] for n in order]
    assert len(prefilled) == 2
    assert answered(stream, [5, 5]) == {5: expected[5]} and len(prefilled) == 2
    assert answered(stream, order) == expected
    assert len(prefilled) <= 4  # the second's are there, and the first's at most until they go
    unnamed = [stream.add(asked[n][1]._replace(trunk=b""), trees[asked[n][0]]) for n in (0, 2)]
    ended = {}
    while not stream.is_idle:
        ended |= {unnamed.index(each.prompt): each.tokens for each, over in stream.advance() if over}
    assert ended == {0: expected[0], 1: expected[2]}
    stream.restart()
    assert answered(stream, [2]) == {2: expected[2]}  # nothing is left of what was before
