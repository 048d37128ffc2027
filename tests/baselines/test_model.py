"""CMKP's joint model: its published size, probabilities, gradients, and beam search."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.baselines.batches import Batch
from mmkp_jax.baselines.beam import NEVER, make_search
from mmkp_jax.baselines.fit import losses
from mmkp_jax.baselines.model import (
    BEGIN,
    END,
    PAD,
    Inputs,
    Sizes,
    choices_of,
    define,
    initial_params,
    parameter_count,
)

SIZES = Sizes(9, 4, region_width=3, attributes=True, joint=True, embedding=5, hidden=4, layers=1)
WORDS = np.array([[5, 0], [6, 7], [8, 0], [5, 8]], np.int32)
INPUTS = Inputs(
    np.array([[5, 6, 1], [7, 0, 0]], np.int32),
    np.array([[5, 6, 9], [7, 0, 0]], np.int32),
    np.array([[5, 6, 7, 8, 5], [0, 0, 0, 0, 0]], np.int32),
    np.stack([np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)]),
)


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda leaf: leaf * 3, initial_params(SIZES, 0))  # so that words differ


def test_the_parameters_are_as_many_as_published():
    published = Sizes(45_006, 4_262, region_width=512)
    assert parameter_count(define(published).shapes()) == 26_500_205
    second = define(published._replace(joint=True)).shapes()["decoder"]
    assert parameter_count(second) == 14_541_408


@pytest.mark.parametrize("fusion", ["m3h", "coatt"])
@pytest.mark.parametrize("joint", [False, True])
def test_generating_and_copying_sum_to_1_and_give_a_targets_probability(fusion, joint):
    sizes = SIZES._replace(fusion=fusion)
    model = define(sizes).bind(initial_params(sizes, 1))
    inputs = Inputs(*map(jnp.asarray, INPUTS))
    of = model.encode(inputs)
    choices = choices_of(of.class_BC, jnp.asarray(WORDS)) if joint else None
    target_BT = jnp.array([[9, 5, END], [8, 7, END]])
    logp_BT = model.target_logp(of, inputs.copied_BS, choices, target_BT)
    word_B, h_BD = jnp.full(2, BEGIN), of.first_BD
    for at in range(3):
        p_BX, h_BD = model.next_words(of, inputs.copied_BS, choices, word_B, h_BD)
        np.testing.assert_allclose(p_BX.sum(-1), 1, atol=1e-6)
        word_B = target_BT[:, at]
        np.testing.assert_allclose(p_BX[jnp.arange(2), word_B], np.exp(logp_BT[:, at]), rtol=1e-5)


def test_a_classifiers_words_share_its_keyphrases_weights():
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.3, 0.2]]))
    choices = choices_of(logits, jnp.asarray(WORDS))
    weight = dict.fromkeys(range(9), 0.0)
    for word, share in zip(choices.word_BW[0].tolist(), choices.weight_BW[0].tolist(), strict=True):
        weight[word] += share
    np.testing.assert_allclose([weight[each] for each in (PAD, 5, 6, 7, 8)], [0, 0.2, 0.2, 0.2, 0.4], atol=1e-6)


def test_gradients_are_finite_differences(params):
    definition = define(SIZES)
    labels = np.array([1, -1], np.int32)
    batch = Batch(INPUTS, np.array([[9, END, PAD], [8, 7, END]], np.int32), labels, np.ones(2, np.float32))

    @jax.jit
    def loss(params: dict, batch: Batch = batch) -> jax.Array:
        return losses(definition, params, batch, WORDS, None, generation_weight=0.7)[0]

    placed = batch._replace(place_P=np.array([0, 1, 3, 4, 5, 0, 0], np.int32))  # the vocabulary, for real words alone
    gradient, of_real = (jax.jit(jax.grad(loss))(params, each) for each in (batch, placed))
    for every, real in zip(*map(jax.tree.leaves, (gradient, of_real)), strict=True):
        np.testing.assert_allclose(real, every, rtol=1e-5, atol=1e-6)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(2)
    direction = jax.tree.unflatten(tree, [rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])
    found = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    step = 1e-3
    ahead, back = (loss(jax.tree.map(lambda x, d, s=s: x + s * d, params, direction)) for s in (step, -step))
    np.testing.assert_allclose(found, (ahead - back) / (2 * step), rtol=2e-2)


def test_a_beam_of_1_is_greedy_and_a_full_beam_finds_the_best_keyphrases(params):
    definition = define(SIZES)
    model = definition.bind(params)
    of = model.encode(Inputs(*map(jnp.asarray, INPUTS)))
    copied_BS, choices = jnp.asarray(INPUTS.copied_BS), choices_of(of.class_BC, jnp.asarray(WORDS))
    greedy, h_BD, word_B = [], of.first_BD, jnp.full(2, BEGIN)
    for at in range(3):
        p_BX, h_BD = model.next_words(of, copied_BS, choices, word_B, h_BD)
        p_BX = p_BX.at[:, jnp.array([*NEVER, *([END] if at == 0 else [])])].set(0)
        word_B = p_BX.argmax(-1) if at < 2 else jnp.full(2, END)
        greedy.append(word_B)
    word_BKT, _, _ = make_search(definition, beams=1, length=3)(params, INPUTS, WORDS)
    for found, expected in zip(word_BKT[:, 0].tolist(), np.stack(greedy, 1).tolist(), strict=True):
        end = expected.index(END) + 1
        assert found[:end] == expected[:end]

    usable = [each for each in range(12) if each not in (*NEVER, END)]
    every = [[a, END, PAD] for a in usable] + [[a, b, END] for a, b in itertools.product(usable, usable)]
    word_BKT, logp_BK, _ = make_search(definition, beams=60, length=3)(params, INPUTS, WORDS)
    target_BNT = jnp.array([every] * 2)
    for post in range(2):
        one = jax.tree.map(lambda x, post=post: jnp.repeat(x[post : post + 1], len(every), 0), (of, copied_BS, choices))
        logp_NT = model.target_logp(*one, target_BNT[post])
        total = np.where(target_BNT[post] != PAD, logp_NT, 0).sum(-1)
        best = np.argsort(-total)[:3]
        np.testing.assert_allclose(logp_BK[post, :3], total[best], atol=1e-4)
        assert word_BKT[post, :3].tolist() == [every[each] for each in best]
