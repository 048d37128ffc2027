"""Answers are transformers' `generate`'s token by token, whatever slot, batch or order they are decoded in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.forest import RowSize, Tree, pack_rows
from mmkp_jax.decoding.generate import Completion, Generator
from mmkp_jax.decoding.prompts import prompt_of
from mmkp_jax.decoding.sampling import Sampling
from mmkp_jax.models.definition import define_from
from mmkp_jax.models.sharding import make_mesh
from mmkp_jax.ops.backends import RowAttention
from tests.support import zoo
from tests.support.needs_torch import needs_torch
from tests.support.parity import BOUND, relative_error
from tests.support.trees import random_tree

ANSWER_TOKENS = 24
MESH = make_mesh({}, jax.devices()[:1])
KINDS = (
    dict(grids=[(10, 18)]),
    dict(grids=[], text=30),
    dict(grids=[(4, 4), (6, 10)]),
    dict(grids=[(16, 8)], text=2),
    dict(grids=[(4, 6)], text=70),
    dict(grids=[], text=3),
)

OF_ANY_FAMILY = (
    dict(images=[1]),
    dict(images=[], text=30),
    dict(images=[0, 2]),
    dict(images=[2], text=2),
    dict(images=[0], text=70),
    dict(images=[], text=3),
)
"""Prompts of mixed lengths and images, by the numbers of a member's images."""


def reference(model: zoo.TinyModel):
    """transformers' model, without what it stores of an earlier prompt."""
    found = zoo.reference_of(model.name, model.geometry)
    if hasattr(found.model, "rope_deltas"):
        found.model.rope_deltas = None
    return found


def theirs(model: zoo.TinyModel, tree, stop: list[int], answer_tokens: int) -> list[int]:
    """The greedy completion of transformers, without its stop token."""
    ends = dict(eos_token_id=stop, pad_token_id=0)
    inputs = zoo.their_inputs(model, tree, tree.prompt)
    out = reference(model).generate(**inputs, max_new_tokens=answer_tokens, do_sample=False, **ends)
    answer = out[0, len(tree.prompt) :].tolist()
    return answer[:-1] if answer[-1] in stop else answer


def their_outputs(model: zoo.TinyModel, tree, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The hidden state of the prompt's last token, after the last norm: [D]; log-probabilities of the tokens after."""
    torch = needs_torch()
    with torch.no_grad():
        found = reference(model)(**zoo.their_inputs(model, tree, [*tree.prompt, *tokens]), output_hidden_states=True)
    last = len(tree.prompt) - 1
    logprobs = found.logits[0, last : last + len(tokens)].log_softmax(-1)
    return found.hidden_states[-1][0, last].numpy(), logprobs[torch.arange(len(tokens)), tokens].numpy()


def answers(definition, params, trees, num_samples=1, names=None, **options):
    """Tokens by (prompt, draw)."""
    found = decoded(definition, params, trees, num_samples, names, **options)
    return {(each.prompt, each.sample): each.tokens for each in found}


def decoded(definition, params, trees, num_samples=1, names=None, **options) -> list[Completion]:
    settings = dict(slots=4, answer_tokens=ANSWER_TOKENS, stop_tokens=(), dtype=jnp.float32) | options
    generator = Generator(definition, MESH, **settings)
    names = names or [str(number) for number in range(len(trees))]
    prompts = [prompt_of(name, tree, definition.processor) for name, tree in zip(names, trees, strict=True)]
    return list(generator(params, prompts, trees.__getitem__, num_samples))


@pytest.mark.parametrize("name, geometry", zoo.all_geometries())
def test_completions_are_those_of_transformers(name, geometry):
    """More prompts than slots, so that slots are filled again; completions that end at different times."""
    model = zoo.model_of(name, geometry)
    trees = [zoo.random_tree(i, model, **kind) for i, kind in enumerate(OF_ANY_FAMILY)]
    most = 64 if name == "qwen2_5_vl" else 20  # the first beyond a page of the cache
    free = [theirs(model, tree, [-1], most) for tree in trees]
    stop = [free[0][5], free[1][9]]  # tokens that answers really come to, so that some end early
    ended = [next((answer[:n] for n, token in enumerate(answer) if token in stop), answer) for answer in free]
    assert theirs(model, trees[0], stop, most) == ended[0]
    for stop_tokens, theirs_of in (((), free), (stop, ended)):
        ours = answers(model.definition, model.params, trees, stop_tokens=stop_tokens, slots=2, answer_tokens=most)
        assert [ours[i, 0] for i in range(len(trees))] == theirs_of
    assert len({len(answer) for answer in ended}) > 1


@pytest.mark.parametrize("name, geometry", zoo.all_geometries())
def test_states_and_log_probabilities_are_those_of_transformers_in_any_slot(name, geometry):
    """With more prompts than slots, whose completions end at different times, and two samples of each."""
    model = zoo.model_of(name, geometry)
    trees = [zoo.random_tree(i, model, **kind) for i, kind in enumerate(OF_ANY_FAMILY)]
    options = dict(stop_tokens=range(0, 320, 3), slots=3, answer_tokens=9)
    found = decoded(model.definition, model.params, trees, num_samples=2, **options)
    assert len(found) == 2 * len(trees) and len({len(each.tokens) for each in found}) > 1
    for each in found:
        state_D, logprobs = their_outputs(model, trees[each.prompt], each.tokens)
        assert relative_error(each.state_D, state_D) < BOUND
        np.testing.assert_allclose(each.logprobs, logprobs, rtol=0, atol=1e-4)


def test_completions_equal_recomputing_the_whole_text_for_every_token(ours):
    definition, params = ours
    config = definition.config
    prompt = random_tree(7, config, grids=[(6, 8)], text=12)
    size = RowSize(tokens=len(prompt.prompt) + 10, labels=11, examples=1, images={"patches": 48, "windows": 2})

    @jax.jit
    def following(forest, last):
        model = definition.bind(params)
        return (model(forest)[0, forest.label_slot_BM[0, last]] @ model.head.T).argmax()

    written: list[int] = []
    for _ in range(10):
        text = Tree(prompt.prompt, [*written, 0], [], prompt.layouts, prompt.pixels)
        written.append(int(following(pack_rows([[text]], size, definition.processor), len(written))))
    assert answers(definition, params, [prompt], answer_tokens=10) == {(0, 0): written}


def test_a_prompt_longer_than_the_trees_of_training_is_read_whole(ours):
    definition, params = ours
    prompt = random_tree(3, definition.config, grids=[], text=400)
    limited = define_from(definition.family, definition.config, attention=RowAttention(longest_tree=100))
    assert answers(limited, params, [prompt], answer_tokens=6) == answers(definition, params, [prompt], answer_tokens=6)


def test_slots_order_and_looks_change_nothing(ours):
    """Nor how many answers end before others, which is what refilling depends on."""
    definition, params = ours
    config = definition.config
    trees = [random_tree(i, config, **KINDS[i % len(KINDS)]) for i in range(9)]
    stop = range(0, 320, 11)  # answers of many lengths
    expected = answers(definition, params, trees, stop_tokens=stop)
    lengths = sorted(map(len, expected.values()))
    assert lengths[0] < 4 and lengths[-1] == ANSWER_TOKENS
    for options in ({"slots": 1}, {"slots": 3, "sync_every": 1}, {"slots": 64, "sync_every": 7}):
        assert answers(definition, params, trees, stop_tokens=stop, **options) == expected
    backwards = answers(definition, params, trees[::-1], stop_tokens=stop, slots=2)
    assert {(8 - prompt, draw): tokens for (prompt, draw), tokens in backwards.items()} == expected


def test_completions_are_cut_where_each_prompt_says(ours):
    """And those that take more pages of the cache than others grow it: 64 tokens are a page."""
    definition, params = ours
    trees = [random_tree(i, definition.config, **KINDS[i % len(KINDS)]) for i in range(6)]
    whole = answers(definition, params, trees, answer_tokens=150, slots=2)
    most = [1, 150, 3, 64, 200, 9]
    generator = Generator(definition, MESH, slots=2, answer_tokens=150, stop_tokens=(), dtype=jnp.float32)
    prompts = [prompt_of(str(i), tree, definition.processor) for i, tree in enumerate(trees)]
    prompts = [prompt._replace(most_tokens=tokens) for prompt, tokens in zip(prompts, most, strict=True)]
    for _ in range(2):  # the second time with programs that are there
        cut = {each.prompt: each.tokens for each in generator(params, prompts, trees.__getitem__)}
        assert cut == {i: whole[i, 0][:tokens] for i, tokens in enumerate(most)}
    assert len(cut[4]) == 150


def test_samples_depend_on_seed_name_and_sample_alone(ours):
    definition, params = ours
    trees = [random_tree(i, definition.config, **KINDS[i % 3]) for i in range(5)]
    names = list("abcde")
    warm = Sampling(temperature=0.8, top_p=0.9, seed=3)
    drawn = answers(definition, params, trees, 2, names, sampling=warm)
    assert drawn.keys() == {(prompt, draw) for prompt in range(5) for draw in range(2)}
    assert len(set(map(tuple, drawn.values()))) == 10
    alone = answers(definition, params, trees[3:4], 3, ["d"], sampling=warm, slots=1)
    assert [alone[0, draw] for draw in range(2)] == [drawn[3, draw] for draw in range(2)]
    assert answers(definition, params, trees[3:4], 1, ["x"], sampling=warm)[0, 0] != drawn[3, 0]
    assert answers(definition, params, trees[3:4], 1, ["d"], sampling=warm._replace(seed=4))[0, 0] != drawn[3, 0]


def test_a_stop_token_and_the_most_tokens_end_a_completion(ours):
    definition, params = ours
    tree = random_tree(2, definition.config, **KINDS[2])
    free = answers(definition, params, [tree])[0, 0]
    assert len(free) == ANSWER_TOKENS
    for most in (1, 8):
        assert answers(definition, params, [tree], answer_tokens=most)[0, 0] == free[:most]
    for stop in free[0], free[8]:  # eight tokens are decoded between two looks
        assert answers(definition, params, [tree], stop_tokens=[-5, stop])[0, 0] == free[: free.index(stop)]


def test_a_prompt_that_cannot_be_loaded_has_no_completion_and_delays_no_other(ours):
    definition, params = ours
    trees = [random_tree(i, definition.config, **KINDS[i % 3]) for i in range(7)]
    expected = answers(definition, params, trees)
    lost = {0, 4}
    generator = Generator(definition, MESH, slots=4, answer_tokens=ANSWER_TOKENS, stop_tokens=(), dtype=jnp.float32)
    prompts = [prompt_of(str(number), tree, definition.processor) for number, tree in enumerate(trees)]
    found = generator(params, prompts, lambda number: None if number in lost else trees[number])
    assert {(each.prompt, each.sample): each.tokens for each in found} == expected | {(0, 0): None, (4, 0): None}
    assert list(generator(params, [], trees.__getitem__)) == []
