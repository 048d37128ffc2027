"""Completions that must begin with a chain of thought, or must not; and the probability of one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.forest import RowSize, Tree, pack_rows
from mmkp_jax.decoding.generate import Completion, Generator
from mmkp_jax.decoding.prompts import prompt_of
from mmkp_jax.decoding.sampling import GREEDY, Sampling
from tests.decoding.test_generate import ANSWER_TOKENS, KINDS, MESH, OF_ANY_FAMILY, answers, decoded
from tests.support import zoo
from tests.support.trees import random_tree

OPENING = (17, 230, 41)
STOP = range(0, 320, 11)  # answers of many lengths, so that slots are filled again at different times


def generator_of(definition, opening=OPENING, **options) -> Generator:
    settings = dict(slots=2, answer_tokens=ANSWER_TOKENS, stop_tokens=(), dtype=jnp.float32) | options
    return Generator(definition, MESH, **settings, opening=opening)


def completed(generator, definition, params, trees, modes, num_samples=1) -> dict[tuple[int, int], Completion]:
    prompts = [
        prompt_of(str(n), tree, definition.processor)._replace(mode=mode)
        for n, (tree, mode) in enumerate(zip(trees, modes, strict=True))
    ]
    return {(each.prompt, each.sample): each for each in generator(params, prompts, trees.__getitem__, num_samples)}


def tokens_of(*args, **options) -> list[list[int]]:
    return [each.tokens for _, each in sorted(completed(*args, **options).items())]


def with_opening(tree: Tree, opening=OPENING) -> Tree:
    return dataclasses.replace(tree, prompt=np.concatenate([tree.prompt, np.asarray(opening, np.int32)]))


def check_forced(definition, params, trees):
    """A forced chain is what the model writes after a prompt that ends with the opening."""
    stop = [each for each in STOP if each not in OPENING]
    most = ANSWER_TOKENS - len(OPENING)
    after = answers(definition, params, [with_opening(tree) for tree in trees], stop_tokens=stop, answer_tokens=most)
    forced = tokens_of(generator_of(definition, stop_tokens=stop), definition, params, trees, ["think"] * len(trees))
    assert forced == [[*OPENING, *after[n, 0]] for n in range(len(trees))]


def test_a_forced_chain_is_what_follows_a_prompt_with_the_opening(ours):
    """With more prompts than slots, whose completions end at different times."""
    definition, params = ours
    check_forced(definition, params, [random_tree(i, definition.config, **KINDS[i % len(KINDS)]) for i in range(7)])


@pytest.mark.nightly
@pytest.mark.parametrize("name, geometry", zoo.all_geometries())
def test_a_forced_chain_is_that_of_every_family(name, geometry):
    model = zoo.model_of(name, geometry)
    check_forced(model.definition, model.params, [zoo.random_tree(i, model, **k) for i, k in enumerate(OF_ANY_FAMILY)])


def test_a_direct_answer_does_not_begin_with_the_opening_and_others_are_as_they_were(ours):
    definition, params = ours
    trees = [random_tree(i, definition.config, **KINDS[i % len(KINDS)]) for i in range(6)]
    free = answers(definition, params, trees)
    for banned in {free[0, 0][0], free[3, 0][0]}:  # what some of them begin with
        generator = generator_of(definition, (banned, 5))
        direct = tokens_of(generator, definition, params, trees, ["direct"] * 6)
        begins = [free[n, 0][0] == banned for n in range(6)]
        assert any(begins)
        assert all(tokens[0] != banned for tokens in direct)
        assert all(begins[n] or direct[n] == free[n, 0] for n in range(6))
        again = [with_opening(tree, tokens[:1]) for tree, tokens in zip(trees, direct, strict=True)]
        rest = tokens_of(generator, definition, params, again, ["auto"] * 6)  # the token is free again after the first
        assert all(tokens[1:] == rest[n][:-1] for n, tokens in enumerate(direct))


def test_auto_is_bit_for_bit_what_it_is_without_modes(ours):
    definition, params = ours
    trees = [random_tree(i, definition.config, **KINDS[i % len(KINDS)]) for i in range(5)]
    for sampling in (GREEDY, Sampling(0.9, 0.8, 1)):
        options = dict(slots=2, stop_tokens=STOP, sampling=sampling)
        before = {(each.prompt, each.sample): each for each in decoded(definition, params, trees, 2, **options)}
        after = completed(generator_of(definition, **options), definition, params, trees, ["auto"] * 5, num_samples=2)
        assert before.keys() == after.keys()
        for key, each in before.items():
            assert each.tokens == after[key].tokens and np.array_equal(each.state_D, after[key].state_D)
            assert each.think is None and 0 < after[key].think < 1


def test_modes_mix_in_one_program(ours):
    """Each completion is that of its own mode, whatever was in its slot before."""
    definition, params = ours
    trees = [random_tree(i, definition.config, **KINDS[i % 3]) for i in range(9)]
    opening = (answers(definition, params, trees[:1])[0, 0][0], 230)
    generator = generator_of(definition, opening, stop_tokens=[each for each in STOP if each not in opening])
    alone = {"auto": tokens_of(generator, definition, params, trees, ["auto"] * 9)}
    programs = generator._decode._cache_size()
    alone |= {mode: tokens_of(generator, definition, params, trees, [mode] * 9) for mode in ("direct", "think")}
    assert alone["auto"][0][:1] == [opening[0]] and all(tokens[:1] != [opening[0]] for tokens in alone["direct"])
    assert len({len(tokens) for tokens in alone["think"]}) > 2
    mixed = ["auto", "direct", "think"] * 3
    for modes in (mixed, mixed[::-1]):
        found = tokens_of(generator, definition, params, trees, modes)
        assert found == [alone[mode][n] for n, mode in enumerate(modes)]
    assert generator._decode._cache_size() == programs


def test_modes_constrain_samples_too(ours):
    definition, params = ours
    trees = [random_tree(1, definition.config, **KINDS[1])] * 3
    hot = dict(sampling=Sampling(5.0, seed=2), answer_tokens=5, slots=64)
    likely = answers(definition, params, trees[:1])[0, 0][0]
    generator = generator_of(definition, (likely, 230), **hot)
    found = completed(generator, definition, params, trees, ["auto", "direct", "think"], num_samples=200)
    starts = {n: [found[n, sample].tokens[:2] for sample in range(200)] for n in range(3)}
    assert any(start[0] == likely for start in starts[0]) and all(start[0] != likely for start in starts[1])
    assert starts[2] == [[likely, 230]] * 200
    assert len({found[2, sample].tokens[2] for sample in range(200)}) > 20


def test_the_probability_of_a_chain_is_the_loss_of_its_first_label_in_training(ours):
    """And does not depend on the mode, the slot or the sample."""
    definition, params = ours
    trees = [random_tree(i, definition.config, **KINDS[i % 3]) for i in range(4)]

    @jax.jit
    def first_label(forest):
        model = definition.bind(params)
        logits_V = model(forest)[0, forest.label_slot_BM[0, 0]] @ model.head.T
        return jax.nn.softmax(logits_V)[OPENING[0]]

    expected = []
    for tree in trees:
        size = RowSize(tokens=len(tree.prompt) + 10, labels=4, examples=1, images={"patches": 400, "windows": 10})
        chain = Tree(tree.prompt, [], [*OPENING, 9], tree.layouts, tree.pixels)
        expected.append(float(first_label(pack_rows([[chain]], size, definition.processor))))
    modes = ["auto", "direct", "think", "auto"]
    found = completed(generator_of(definition, stop_tokens=STOP), definition, params, trees, modes, num_samples=3)
    for (prompt, _), each in found.items():
        assert each.think == pytest.approx(expected[prompt], rel=1e-4)


def test_a_mode_needs_an_opening(ours):
    definition, params = ours
    tree = random_tree(1, definition.config, **KINDS[1])
    with pytest.raises(ValueError, match="opening"):
        completed(generator_of(definition, ()), definition, params, [tree], ["think"])
