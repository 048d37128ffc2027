"""Answers are transformers' `generate`'s token by token, whatever slot, batch or order they are decoded in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mmkp_jax.data.forest import RowSize, Tree, plant
from mmkp_jax.decoding.generate import Generator
from mmkp_jax.decoding.prompts import measure
from mmkp_jax.decoding.sampling import Sampling
from mmkp_jax.sharding import make_mesh
from tests.parity import pair_of, pixel_values
from tests.tiny import tiny_config
from tests.trees import random_tree

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


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return pair_of(tiny_config(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    config = tiny_config(tie_embeddings=False, num_heads=8, num_kv_heads=4, mrope_section=(1, 2, 1))
    return pair_of(config, tmp_path_factory.mktemp("untied"))


@torch.no_grad()
def theirs(model, tree, config, stop: list[int]) -> list[int]:
    ids = torch.from_numpy(tree.prompt.astype(np.int64))[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["mm_token_type_ids"] = (ids == config.image_token_id).int()
    if tree.grids:
        inputs["pixel_values"] = pixel_values(tree)
        inputs["image_grid_thw"] = torch.tensor([(1, *grid) for grid in tree.grids])
    model.model.rope_deltas = None
    out = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, eos_token_id=stop, pad_token_id=0)
    answer = out[0, ids.shape[1] :].tolist()
    return answer[:-1] if answer[-1] in stop else answer


def answers(definition, params, trees, draws=1, names=None, **options):
    """Tokens by (prompt, draw)."""
    settings = dict(slots=4, answer_tokens=ANSWER_TOKENS, stop_tokens=(), dtype=jnp.float32) | options
    generator = Generator(definition, MESH, **settings)
    names = names or [str(number) for number in range(len(trees))]
    prompts = [measure(name, tree, definition.geometry) for name, tree in zip(names, trees, strict=True)]
    found = generator(params, prompts, trees.__getitem__, draws)
    return {(each.prompt, each.draw): each.tokens for each in found}


@pytest.mark.parametrize("which", ["pair", "untied"])
def test_answers_are_those_of_transformers(request, which):
    model, definition, params = request.getfixturevalue(which)
    config = definition.config
    trees = [random_tree(i, config, **kind) for i, kind in enumerate(KINDS)]
    free = [theirs(model, tree, config, stop=[-1]) for tree in trees]
    stop = [free[0][5], free[1][9]]  # tokens that answers really come to, so that they end early
    expected = [theirs(model, tree, config, stop) for tree in trees]
    ours = answers(definition, params, trees, stop_tokens=stop, slots=2)
    assert [ours[i, 0] for i in range(len(trees))] == expected
    assert len({len(answer) for answer in expected}) > 2


def test_answers_are_those_of_the_whole_text_computed_anew_for_every_token(pair):
    _, definition, params = pair
    config = definition.config
    prompt = random_tree(7, config, grids=[(6, 8)], text=12)
    size = RowSize(tokens=len(prompt.prompt) + 10, patches=48, windows=2, labels=11, examples=1)

    @jax.jit
    def following(forest, last):
        model = definition.bind(params)
        return (model(forest)[0, forest.label_slot_BM[0, last]] @ model.head.T).argmax()

    written: list[int] = []
    for _ in range(10):
        text = Tree(prompt.prompt, [*written, 0], [], prompt.grids, prompt.patches)
        written.append(int(following(plant([[text]], size, definition.geometry), len(written))))
    assert answers(definition, params, [prompt], answer_tokens=10) == {(0, 0): written}


def test_slots_order_and_looks_change_nothing(pair):
    """Nor how many answers end before others, which is what refilling depends on."""
    _, definition, params = pair
    config = definition.config
    trees = [random_tree(i, config, **KINDS[i % len(KINDS)]) for i in range(9)]
    stop = range(0, 320, 11)  # answers of many lengths
    expected = answers(definition, params, trees, stop_tokens=stop)
    lengths = sorted(map(len, expected.values()))
    assert lengths[0] < 4 and lengths[-1] == ANSWER_TOKENS
    for options in ({"slots": 1}, {"slots": 3, "look_every": 1}, {"slots": 64, "look_every": 7}):
        assert answers(definition, params, trees, stop_tokens=stop, **options) == expected
    backwards = answers(definition, params, trees[::-1], stop_tokens=stop, slots=2)
    assert {(8 - prompt, draw): tokens for (prompt, draw), tokens in backwards.items()} == expected


def test_samples_depend_on_seed_name_and_draw_alone(pair):
    _, definition, params = pair
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


def test_a_stop_token_and_the_most_tokens_end_an_answer(pair):
    _, definition, params = pair
    tree = random_tree(2, definition.config, **KINDS[2])
    free = answers(definition, params, [tree])[0, 0]
    assert len(free) == ANSWER_TOKENS
    for most in (1, 4):
        assert answers(definition, params, [tree], answer_tokens=most)[0, 0] == free[:most]
    for stop in free[0], free[4]:  # four tokens are decoded between two looks
        assert answers(definition, params, [tree], stop_tokens=[-5, stop])[0, 0] == free[: free.index(stop)]


def test_a_prompt_that_cannot_be_loaded_has_no_answer_and_holds_nobody_up(pair):
    _, definition, params = pair
    trees = [random_tree(i, definition.config, **KINDS[i % 3]) for i in range(7)]
    expected = answers(definition, params, trees)
    lost = {0, 4}
    generator = Generator(definition, MESH, slots=4, answer_tokens=ANSWER_TOKENS, stop_tokens=(), dtype=jnp.float32)
    prompts = [measure(str(number), tree, definition.geometry) for number, tree in enumerate(trees)]
    found = generator(params, prompts, lambda number: None if number in lost else trees[number])
    assert {(each.prompt, each.draw): each.tokens for each in found} == expected | {(0, 0): None, (4, 0): None}
    assert list(generator(params, [], trees.__getitem__)) == []
