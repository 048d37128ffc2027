"""Decisions and the parts of a loss, on numbers by hand and against a naive second implementation."""

import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.forest import Forest, pack_rows
from mmkp_jax.errors import InputError
from mmkp_jax.training.decisions import DECISIONS, Threshold, decide, decision_named, step_keys
from mmkp_jax.training.gamma import Seen, gamma_schedule, init_gamma, update_gamma
from mmkp_jax.training.losses import Losses, chain_loss, example_losses, keyphrase_loss, think_at_balance
from mmkp_jax.training.objectives import decoupled, objective
from tests.support.devices import fake_devices
from tests.support.paths import ROOT
from tests.support.post_numbers import losses_of_numbers, naive_losses, naive_parts
from tests.support.zoo import first_geometries, forest_of, model_of, random_tree, row_size

VOCABULARY = 7


def random_distributions(seed: int, positions: int) -> np.ndarray:
    """Log-probabilities [positions, VOCABULARY], float64."""
    logits = np.random.default_rng(seed).normal(0, 2, (positions, VOCABULARY))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_the_keyphrases_loss_is_that_of_a_model_that_cannot_think():
    """By the definition: the first token's distribution without `think`, normalised again."""
    think, sft = 3, [1, 5, 0]
    log_p = random_distributions(0, 3)
    without = log_p.copy()
    without[0, think] = -np.inf
    without[0] -= np.log(np.exp(without[0]).sum())
    expected = -np.mean([without[i, token] for i, token in enumerate(sft)])
    nll = [-log_p[i, token] for i, token in enumerate(sft)]
    losses = losses_of_numbers([[(nll, [-log_p[0, think], 2.0])]])
    np.testing.assert_allclose(keyphrase_loss(losses)[0, 0], expected, rtol=1e-6)


def test_parts_of_a_loss_by_hand():
    """P(think) is 1/2, P(direct's first token) 1/4: given a direct answer, that is 1/2."""
    losses = losses_of_numbers([[([math.log(4), 0.3], [math.log(2), 1.0, 3.0])]])
    np.testing.assert_allclose(losses.sft_BS[0, 0], (math.log(4) + 0.3) / 2, rtol=1e-6)
    np.testing.assert_allclose(keyphrase_loss(losses)[0, 0], (math.log(2) + 0.3) / 2, rtol=1e-6)
    np.testing.assert_allclose(chain_loss(losses)[0, 0], 2.0, rtol=1e-6)


def test_without_two_targets_there_is_no_mode():
    losses = losses_of_numbers([[([1.0, 2.0], []), ([], [3.0, 1.0])], []])
    np.testing.assert_array_equal(keyphrase_loss(losses), losses.sft_BS)
    np.testing.assert_array_equal(chain_loss(losses), losses.cot_BS)


@pytest.mark.parametrize("think", [0.0, 1e-9, 1e-6, 30.0, 1e4])
def test_a_certain_mode_gives_finite_losses_and_gradients(think):
    """P(think) of 1, and of 0: where it rounds to 1, the loss given a direct answer is a bound from above."""
    losses = losses_of_numbers([[([max(1e-3, -math.log(max(1 - math.exp(-think), 1e-12))), 0.2], [think, 0.5])]])

    def loss(sft_BS, think_BS):
        changed = losses._replace(sft_BS=sft_BS, think_BS=think_BS)
        choices = [
            objective("decoupled", decision="mode_free")(changed, Threshold(jnp.float32(gamma))) for gamma in (0, 9)
        ]
        return sum(choice.loss_BS.sum() for choice in choices)

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(losses.sft_BS, losses.think_BS)
    assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)
    assert keyphrase_loss(losses)[0, 0] >= 0


def random_posts(seed: int, rows: int = 6, examples: int = 5):
    """Rows of posts as lists of labels' NLLs; some without a chain of thought, some slots empty."""
    random = np.random.default_rng(seed)

    def post():
        sft = random.exponential(0.5, random.integers(1, 6)).tolist()
        cot = random.exponential(1.0, random.integers(1, 9)).tolist() if random.random() < 0.8 else []
        if cot:  # both first labels are of one distribution: their probabilities add up to 1 at most
            sft[0] = max(sft[0], -math.log1p(-math.exp(-max(cot[0], 1e-3))) + 0.01)
        return sft, cot

    return [[post() for _ in range(random.integers(0, examples + 1))] for _ in range(rows)]


NAIVE = {
    "paper": lambda kp, sft, gamma: sft < gamma,
    "mode_free": lambda kp, sft, gamma: kp < gamma,
    "inverse": lambda kp, sft, gamma: not sft < gamma,
    "inverse_mode_free": lambda kp, sft, gamma: not kp < gamma,
}
"""Decisions on one post."""


@pytest.mark.parametrize("name", NAIVE)
def test_decisions_and_losses_equal_those_of_each_post_alone(name):
    posts, gamma = random_posts(1), 0.6
    losses = losses_of_numbers(posts)
    found = objective("dyncot", decision=name)(losses, Threshold(jnp.float32(gamma)))
    expected = np.zeros(losses.sft_BS.shape)
    on_cot = np.zeros(losses.sft_BS.shape, bool)
    for b, row in enumerate(posts):
        for s, (sft, cot) in enumerate(row):
            kp, _, _ = naive_parts(sft, cot)
            on_cot[b, s] = bool(cot) and NAIVE[name](kp, np.mean(sft), gamma)
            expected[b, s] = np.mean(cot if on_cot[b, s] else sft)
    np.testing.assert_array_equal(found.on_cot_BS, on_cot)
    assert 0 < on_cot.sum() < losses.has_cot_BS.sum()
    np.testing.assert_allclose(found.loss_BS, expected, rtol=1e-5, atol=1e-6)


def test_content_and_mode_apart_equal_those_of_each_post_alone():
    posts, gamma, share, weight, mode_weight = random_posts(2), 0.4, 0.2, 0.7, 0.3
    losses = losses_of_numbers(posts)
    train = objective("decoupled", decision="mode_free", multitask_weight=weight, mode_weight=mode_weight)
    found = train(losses, Threshold(jnp.float32(gamma), jnp.float32(share)))
    for b, row in enumerate(posts):
        for s, (sft, cot) in enumerate(row):
            kp, chain, p_think = naive_parts(sft, cot)
            if not cot:
                expected = np.mean(sft)
            else:
                thinks = kp < gamma
                balance = 0.5 / (share if thinks else 1 - share)
                mode = -math.log(p_think if thinks else 1 - p_think)
                expected = weight * kp + (1 - weight) * chain + mode_weight * balance * mode
                assert found.on_cot_BS[b, s] == thinks
            np.testing.assert_allclose(found.loss_BS[b, s], expected, rtol=1e-5)


def test_where_a_post_thinks_as_the_balance_says_its_sft_loss_is_gamma():
    posts, gamma = random_posts(4), 0.6
    p_think_BS = np.asarray(think_at_balance(losses_of_numbers(posts), jnp.float32(gamma)))
    below = 0
    for b, row in enumerate(posts):
        for s, (sft, cot) in enumerate(row):
            kp, _, _ = naive_parts(sft, cot)
            if not cot or kp >= gamma:
                assert p_think_BS[b, s] == 0
                continue
            below += 1
            n_sft = -math.log1p(-p_think_BS[b, s]) + len(sft) * kp
            assert n_sft / len(sft) == pytest.approx(gamma, rel=1e-4)
    assert below > 3


@pytest.mark.parametrize("strategy", ["dyncot", "decoupled"])
@pytest.mark.parametrize("name", DECISIONS)
def test_no_gradient_flows_through_a_decision(name, strategy):
    """The gradient is that of the losses at the choices as constants; γ and the share get none."""
    losses = losses_of_numbers(random_posts(3))
    keys = step_keys(0, jnp.int32(4))

    def loss(parts, gamma, share):
        changed = losses._replace(**parts)
        return objective(strategy, decision=name)(changed, Threshold(gamma, share, keys)).loss_BS.sum()

    def loss_of_choices(parts, on_cot_BS):
        changed = losses._replace(**parts)
        if strategy == "dyncot":
            return jnp.where(on_cot_BS, changed.cot_BS, changed.sft_BS).sum()
        chosen = Threshold(jnp.float32(0.5), 0.3, keys)
        number_BS = jnp.where(on_cot_BS, 0.0, 1.0)
        constant = DECISIONS["paper"]._replace(number=lambda losses, threshold: number_BS)
        return decoupled(changed, chosen, decision=constant).loss_BS.sum()

    parts = {each: getattr(losses, each) for each in ("sft_BS", "cot_BS", "think_BS")}
    gamma = jnp.float32(0.5)
    on_cot_BS = decide(DECISIONS[name], losses, Threshold(gamma, 0.3, keys)).on_cot_BS
    assert 0 < on_cot_BS.sum() < losses.has_cot_BS.sum()
    to_parts, to_gamma, to_share = jax.grad(loss, argnums=(0, 1, 2))(parts, gamma, jnp.float32(0.3))
    expected = jax.grad(loss_of_choices)(parts, on_cot_BS)
    for each, gradient in expected.items():
        np.testing.assert_allclose(to_parts[each], gradient, rtol=1e-6)
    assert to_gamma == 0 and (strategy == "decoupled" or to_share == 0)


@pytest.mark.parametrize("name, geometry", first_geometries("qwen2_5_vl", "mllama", "qwen2"))
def test_the_numbers_of_a_packed_row_are_those_of_its_trees(name, geometry):
    """Random losses at the label slots of a real forest, against a walk over each tree."""
    model = model_of(name, geometry)
    rows = [
        [random_tree(0, model), random_tree(1, model, sft=1, cot=1), random_tree(2, model, images=[], cot=0)],
        [],
        [random_tree(3, model, sft=0), random_tree(4, model, sft=5, cot=2)],
    ]
    begins_alike = random_tree(5, model, images=[])
    begins_alike.sft[0] = begins_alike.cot[0]
    rows[1].append(begins_alike)
    forest, examples = forest_of(rows, model, spare=3), 4
    nll_BM = np.random.default_rng(0).exponential(1.0, forest.label_BM.shape).astype(np.float32)
    found = jax.jit(example_losses, static_argnums=2)(nll_BM, forest, examples)
    expected = naive_losses(nll_BM, rows, examples)
    for field in (*Losses._fields[:4], "sft_labels_BS", "cot_labels_BS", "think_BS", "has_mode_BS"):
        np.testing.assert_allclose(getattr(found, field), expected[field], rtol=1e-6, err_msg=field)
    assert np.asarray(found.has_mode_BS).sum() == 3 and not found.has_mode_BS[1, 0]


def test_a_posts_hash_does_not_depend_on_its_place():
    model = model_of("qwen2_5_vl")
    trees = [random_tree(seed, model) for seed in range(4)]
    size = row_size([trees], model.processor, spare=2)

    def hashes(rows):
        forest: Forest = pack_rows(rows, size, model.processor)
        return np.asarray(example_losses(np.zeros_like(forest.weight_BM), forest, 4).post_BS)

    one, other = hashes([trees]), hashes([[trees[2]], [trees[1], trees[3], trees[0]]])
    assert len(set(one[0].tolist())) == 4
    np.testing.assert_array_equal(one[0, [2, 1, 3, 0]], [other[0, 0], *other[1, :3]])


def test_random_decisions_put_their_share_of_posts_on_cot():
    """Each step anew, or always the same posts; both by seed."""
    posts = [[([1.0, 1.0], [1.0, 1.0])] * 500] * 4
    losses = losses_of_numbers(posts)
    threshold = [
        Threshold(jnp.float32(0.3), keys=step_keys(seed, jnp.int32(step))) for seed in (0, 1) for step in (1, 2)
    ]
    for name, kept in (("random", False), ("random_posts", True)):
        chosen = [np.asarray(decide(DECISIONS[name], losses, each).on_cot_BS) for each in threshold]
        for each in chosen:
            assert abs(each.mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / each.size)
        assert (chosen[0] == chosen[1]).all() == kept
        assert 0.5 < (chosen[0] == chosen[2]).mean() < 0.66  # independent: 0.58


def test_decisions_are_the_same_on_any_mesh():
    """And with rows in another order: a random decision knows the post, not its place."""
    command = [sys.executable, "-m", "tests.support.sharded_decisions"]
    done = subprocess.run(command, cwd=ROOT, env=fake_devices(8), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    one, *others = json.loads(done.stdout.splitlines()[-1]).values()
    assert set(one) == set(DECISIONS) and len(others) == 3
    for other in others:
        for name, found in other.items():
            assert found["on_cot"] == one[name]["on_cot"], name
            assert found["gamma"] == pytest.approx(one[name]["gamma"], rel=1e-6)
    steps = {name: [np.asarray(step) for step in found["on_cot"]] for name, found in one.items()}
    assert all(0 < sum(step.sum() for step in found) < sum(step.size for step in found) for found in steps.values())
    assert (steps["random"][0] != steps["random"][1]).any()
    assert (steps["random_posts"][0] == steps["random_posts"][1]).all()


def simulate(share, *, decision="paper", steps=600, posts=8, scale=lambda step: 1.0, seed=0):
    """γ and shares on CoT by step, on a stream of losses whose scale may move."""
    above = DECISIONS[decision].above
    schedule = gamma_schedule("quantile", share_below=1 - share if above else share)
    state, gammas, shares = init_gamma(schedule), [], []
    random = np.random.default_rng(seed)
    update = jax.jit(update_gamma, static_argnums=0)
    for step in range(steps):
        numbers = (random.gamma(2.0, 0.5, posts) * scale(step)).astype(np.float32)
        below = (numbers < np.float32(state["gamma"])).sum()
        on_cot = posts - below if above else below
        gammas.append(float(state["gamma"]))
        shares.append(on_cot / posts)
        sums = [np.float32(each) for each in (numbers.sum(), posts, below, on_cot, posts)]
        state = update(schedule, state, Seen(*map(jnp.asarray, sums)))
    return np.array(gammas), np.array(shares)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("decision", ["paper", "inverse"])
def test_the_quantile_keeps_its_share_on_a_stationary_stream(share, decision):
    gammas, shares = simulate(share, decision=decision)
    assert gammas[0] == 0
    assert abs(shares[100:].mean() - share) < 0.02
    stream = np.random.default_rng(1).gamma(2.0, 0.5, 100_000)
    expected = np.quantile(stream, 1 - share if decision == "inverse" else share)
    assert abs(np.log(gammas[100:]).mean() - math.log(expected)) < 0.1


def test_the_quantile_follows_losses_that_fall_by_two_orders_of_magnitude():
    gammas, shares = simulate(0.5, scale=lambda step: max(0.01, 10 * 0.97**step))
    assert abs(shares[300:].mean() - 0.5) < 0.03 and gammas[1] > 5 > 0.05 > gammas[-1]
    gammas, shares = simulate(0.5, scale=lambda step: 1.0, posts=1)
    assert abs(shares[100:].mean() - 0.5) < 0.02


def test_a_step_without_chains_or_with_a_broken_loss_leaves_the_quantile():
    schedule = gamma_schedule("quantile", share_below=0.5, tracks_share=True)
    state = init_gamma(schedule) | {"gamma": jnp.float32(0.7), "posts": jnp.int32(9)}
    seen = Seen(*map(jnp.float32, (4.0, 4, 3, 3, 4)))
    moved = update_gamma(schedule, state, seen)
    np.testing.assert_allclose(moved["gamma"], 0.7 * math.exp(0.1 * (0.5 - 0.75)), rtol=1e-6)
    np.testing.assert_allclose(moved["share"], 0.99 * 0.5 + 0.01 * 0.75, rtol=1e-6)
    none = jnp.float32(0)
    after = update_gamma(schedule, state, seen._replace(below=none, on_cot=none, with_cot=none))
    assert (after["gamma"], after["share"], after["posts"]) == (state["gamma"], 0.5, 13)
    broken = update_gamma(schedule, state, seen._replace(number=jnp.float32("nan")))
    assert (broken["gamma"], broken["posts"]) == (state["gamma"], 9)


def test_an_unknown_decision_is_one_line():
    with pytest.raises(InputError) as error:
        decision_named("mode_fre")
    assert str(error.value) == (
        "config.decision: unknown decision 'mode_fre' (did you mean 'mode_free'?); "
        "choose one of paper, mode_free, inverse, inverse_mode_free, random, random_posts"
    )
