"""The strategies and γ, on numbers small enough to check by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.training.decisions import Threshold
from mmkp_jax.training.gamma import Seen, gamma_schedule, init_gamma, update_gamma
from mmkp_jax.training.objectives import objective
from tests.support.post_numbers import losses_of_numbers

# five slots: below γ, at γ, above γ, below γ without a chain of thought, empty
LOSSES = losses_of_numbers([[([0.2], [3.0]), ([0.5], [4.0]), ([0.9], [5.0]), ([0.1], []), ([], [])]])
GAMMA = Threshold(jnp.float32(0.5))


@pytest.mark.parametrize(
    "strategy, loss, counts, on_cot",
    [
        ("sft", [0.2, 0.5, 0.9, 0.1, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0]),
        ("cot", [3, 4, 5, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]),
        ("multitask", [1.6, 2.25, 2.95, 0.1, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0]),
        ("dyncot", [3, 0.5, 0.9, 0.1, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]),
    ],
)
def test_each_strategy_on_one_row(strategy, loss, counts, on_cot):
    choice = objective(strategy)(LOSSES, GAMMA)
    np.testing.assert_allclose(choice.loss_BS[0], loss, rtol=1e-6)
    np.testing.assert_array_equal(choice.counts_BS[0], np.array(counts, bool))
    np.testing.assert_array_equal(choice.on_cot_BS[0], np.array(on_cot, bool))


def test_dynamic_cot_gives_a_gradient_to_the_chosen_target_only():
    def total(sft, cot):
        return objective("dyncot")(LOSSES._replace(sft_BS=sft, cot_BS=cot), GAMMA).loss_BS.sum()

    to_sft, to_cot = jax.grad(total, argnums=(0, 1))(LOSSES.sft_BS, LOSSES.cot_BS)
    np.testing.assert_array_equal(to_sft[0, :4], [0, 1, 1, 1])
    np.testing.assert_array_equal(to_cot[0, :4], [1, 0, 0, 0])


def test_the_weight_of_multitask_is_that_of_the_keyphrases():
    choice = objective("multitask", multitask_weight=0.8)(LOSSES, GAMMA)
    np.testing.assert_allclose(choice.loss_BS[0, 0], 0.8 * 0.2 + 0.2 * 3.0, rtol=1e-6)


def seen_of(loss_sum, posts):
    """What γ that follows the losses is moved by."""
    return Seen(loss_sum, jnp.float32(posts), *[jnp.float32(0)] * 3)


def run(schedule, steps):
    """γ before each step and after the last; each step is a list of its posts' SFT losses."""
    state, seen = init_gamma(schedule), []
    for losses in steps:
        seen.append(float(state["gamma"]))
        state = update_gamma(schedule, state, seen_of(jnp.float32(sum(losses)), len(losses)))
    return [*seen, float(state["gamma"])], int(state["posts"])


STEPS = [[1.0, 3.0], [6.0], [], [2.0, 2.0, 1.0]]


def test_fixed_gamma_is_constant():
    gammas, posts = run(gamma_schedule("fixed", 0.4), STEPS)
    np.testing.assert_allclose(gammas, [0.4] * 5)
    assert posts == 6


def test_mean_gamma_is_the_mean_over_all_posts_of_earlier_steps():
    gammas, posts = run(gamma_schedule("mean"), STEPS)
    np.testing.assert_allclose(gammas, [0, 2, 10 / 3, 10 / 3, 15 / 6], rtol=1e-6)
    assert posts == 6


def test_ema_gamma_starts_at_the_first_step_and_follows_step_means():
    gammas, _ = run(gamma_schedule("ema", ema_decay=0.75), STEPS)
    np.testing.assert_allclose(gammas, [0, 2, 3, 3, 0.75 * 3 + 0.25 * 5 / 3], rtol=1e-6)


@pytest.mark.parametrize("mode", ["mean", "ema"])
def test_a_step_with_a_loss_that_is_not_finite_does_not_change_gamma(mode):
    good, posts = run(gamma_schedule(mode), STEPS)
    with_bad, bad_posts = run(gamma_schedule(mode), [*STEPS[:2], [float("nan"), 1.0], *STEPS[2:]])
    assert (with_bad[-1], bad_posts) == (good[-1], posts) and with_bad[2] == with_bad[3]


@pytest.mark.parametrize("mode", ["mean", "ema", "quantile"])
def test_before_the_first_update_every_post_takes_sft(mode):
    gamma = init_gamma(gamma_schedule(mode))["gamma"]
    certain = LOSSES._replace(sft_BS=jnp.zeros((1, 5)))
    assert not objective("dyncot")(certain, Threshold(gamma)).on_cot_BS.any()


def test_mean_gamma_keeps_its_precision_over_a_million_posts():
    schedule = gamma_schedule("mean")
    values = np.random.default_rng(0).uniform(0, 2, (2000, 512)).astype(np.float32)

    def step(state, losses):
        return update_gamma(schedule, state, seen_of(losses.sum(), len(losses))), None

    state, _ = jax.lax.scan(step, init_gamma(schedule), jnp.asarray(values))
    np.testing.assert_allclose(state["gamma"], values.mean(dtype=np.float64), rtol=1e-5)  # the error of 2,000 roundings


@pytest.mark.parametrize(
    "make, line",
    [
        (
            lambda: objective("dynct"),
            "config.strategy: unknown strategy 'dynct' (did you mean 'dyncot'?); "
            "choose one of zeroshot, sft, cot, multitask, dyncot, decoupled",
        ),
        (
            lambda: objective("zeroshot"),
            "config.strategy: strategy 'zeroshot' trains nothing; evaluate the checkpoint as it is",
        ),
        (
            lambda: gamma_schedule("fix"),
            "config.gamma_mode: unknown γ mode 'fix' (did you mean 'fixed'?); choose one of fixed, mean, ema, quantile",
        ),
        (
            lambda: gamma_schedule("ema", ema_decay=1.0),
            "config.gamma_ema_decay: decay 1.0 is outside [0, 1); try 0.99",
        ),
    ],
)
def test_bad_settings_are_one_line(make, line):
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == line
