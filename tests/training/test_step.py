"""The optimizer step: what trains, what is left out, and that splitting a batch changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmkp_jax.data.forest import Forest
from mmkp_jax.errors import InputError
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.models.definition import define_from, flatten, random_params
from mmkp_jax.models.freezing import join_params, split_params
from mmkp_jax.training.gamma import gamma_schedule
from mmkp_jax.training.objectives import objective
from mmkp_jax.training.optimizer import adamw, decay_mask, learning_rate, warmup_length
from mmkp_jax.training.step import init_state, make_train_step
from tests.support.tiny import tiny_config
from tests.support.trees import forest_of, random_tree

CONFIG = tiny_config()
FROZEN = FAMILY.paths(["tower"])
DEFINITION = define_from(FAMILY, CONFIG)
PARAMS = random_params(DEFINITION, 0, spread=0.1)
TREES = [random_tree(i, CONFIG, grids=[(4, 4)], cot=0 if i == 2 else 6) for i in range(5)]
FOREST = forest_of([TREES[:1], TREES[1:3], TREES[3:], []], CONFIG, spare=2)
EXAMPLES = 3


def plain_sgd(peak=0.1):
    return optax.sgd(peak)


def run(forest: Forest, micro: int, strategy="dyncot", gamma=6.2, optimizer=None, freeze=FROZEN, steps=1):
    trainable, frozen = split_params(PARAMS, freeze)
    frozen = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), frozen)
    optimizer, schedule = optimizer or plain_sgd(), gamma_schedule("fixed", gamma)
    step = make_train_step(DEFINITION, optimizer, objective(strategy), schedule, examples=EXAMPLES, dtype=jnp.float32)
    batch = jax.tree.map(lambda a: a.reshape(micro, -1, *a.shape[1:]), forest)
    state = init_state(trainable, frozen, optimizer, schedule)
    for _ in range(steps):
        state, metrics, _ = jax.jit(step)(state, batch)
    return state, {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize(
    "strategy", [*(pytest.param(name, marks=pytest.mark.nightly) for name in ("sft", "cot", "multitask")), "dyncot"]
)
def test_micro_batches_with_unequal_posts_equal_one_big_batch(strategy):
    """Plain SGD, so that an error of the gradient is one of the update. The bound is 1e-5 of a parameter's change, plus
    1e-6 for the rounding of the parameter."""
    whole, whole_metrics = run(FOREST, 1, strategy)
    split, split_metrics = run(FOREST, 4, strategy)  # of 1, 2, 2 and 0 posts
    start = flatten(PARAMS)
    for path, leaf in flatten(whole["trainable"]).items():
        change = np.linalg.norm(leaf - start[path])
        assert np.linalg.norm(flatten(split["trainable"])[path] - leaf) <= 1e-5 * change + 1e-6
    assert split_metrics == pytest.approx(whole_metrics, rel=1e-5)


@pytest.mark.parametrize(
    "strategy, posts, left_out", [("sft", 5, 0), ("cot", 4, 1), ("multitask", 5, 0), ("dyncot", 5, 0)]
)
def test_fine_tune_cot_leaves_out_and_counts_posts_without_a_chain_of_thought(strategy, posts, left_out):
    _, metrics = run(FOREST, 1, strategy)
    assert (metrics["posts"], metrics["left_out"]) == (posts, left_out)
    assert metrics["labels"] == 5 * 4 + 4 * 6


def test_the_loss_of_a_step_is_the_mean_over_its_posts():
    _, metrics = run(FOREST, 1, "sft")
    assert metrics["loss"] == pytest.approx(metrics["loss_sft"], rel=1e-6)
    singles = [run(forest_of([[tree]], CONFIG), 1, "sft")[1]["loss"] for tree in TREES]
    assert metrics["loss"] == pytest.approx(np.mean(singles), rel=1e-5)


def test_frozen_parameters_stay_in_bf16_without_optimizer_state_and_do_not_change():
    optimizer = adamw(optax.constant_schedule(1e-2), b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0)
    state, _ = run(FOREST, 1, optimizer=optimizer, steps=2)
    frozen, start = flatten(state["frozen"]), flatten(PARAMS)
    assert sorted({path.rsplit(".", 2)[0] for path in frozen if "mlp" not in path}) == ["visual", "visual.blocks"]
    for path, leaf in frozen.items():
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_array_equal(leaf, jnp.asarray(start[path], jnp.bfloat16))
    for path, leaf in flatten(state["trainable"]).items():
        assert leaf.dtype == jnp.float32
        assert np.any(leaf != start[path]), path
    moments = [leaf.shape for leaf in jax.tree.leaves(state["optimizer"]) if leaf.ndim]
    assert sorted(moments) == sorted(2 * [leaf.shape for leaf in flatten(state["trainable"]).values()])


def test_the_whole_tower_trains_when_nothing_is_frozen():
    state, _ = run(FOREST, 1, freeze=())
    start = flatten(PARAMS)
    assert not flatten(state["frozen"])
    assert all(np.any(leaf != start[path]) for path, leaf in flatten(state["trainable"]).items())


@pytest.mark.parametrize(
    "freeze, line",
    [
        (
            ["visual.blcks"],
            "config.freeze: 'visual.blcks' matches no parameter (did you mean 'visual.blocks'?); "
            "give parameter paths or their prefixes",
        ),
        (["visual", "decoder"], "config.freeze: every parameter is frozen; leave something to train"),
        (["*"], "config.freeze: every parameter is frozen; leave something to train"),
    ],
)
def test_a_bad_trainable_set_is_one_line(freeze, line):
    with pytest.raises(InputError) as error:
        split_params(PARAMS, freeze)
    assert str(error.value) == line


def test_patterns_freeze_prefixes_and_wildcards():
    trainable, frozen = split_params(PARAMS, ["decoder.layers.*.bias", "visual.merger"])
    assert "decoder.layers.q.bias" in flatten(frozen) and "decoder.layers.q.weight" in flatten(trainable)
    assert "visual.merger.norm.scale" in flatten(frozen)
    assert flatten(join_params(trainable, frozen)).keys() == flatten(PARAMS).keys()


def test_norms_and_biases_do_not_decay():
    spared = {path for path, decay in flatten(decay_mask(PARAMS)).items() if not decay}
    assert spared == {path for path in flatten(PARAMS) if path.endswith(("scale", "bias"))}
    assert {"decoder.norm.scale", "decoder.layers.q.bias"} <= spared and "decoder.embedding" not in spared


def test_the_learning_rate_warms_up_from_the_first_step_and_ends_at_zero():
    rate = learning_rate(1.0, warmup_steps=3, total_steps=11)
    np.testing.assert_allclose([rate(i) for i in range(4)], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose([rate(7), rate(11)], [0.5, 0.0], atol=1e-7)
    assert learning_rate(1.0, warmup_steps=0, total_steps=4)(0) == 1.0


@pytest.mark.parametrize("warmup_steps, total_steps, taken", [(30, 30, 3), (100, 25, 2), (5, 5, 0), (4, 5, 4)])
def test_a_warm_up_as_long_as_the_run_is_shortened_to_a_tenth_of_it(warmup_steps, total_steps, taken):
    assert warmup_length(warmup_steps, total_steps) == taken
    rate = learning_rate(1.0, warmup_steps=warmup_steps, total_steps=total_steps)
    np.testing.assert_allclose([rate(taken), rate(total_steps)], [1.0, 0.0], atol=1e-7)


def test_a_mean_over_no_posts_is_nan_and_the_step_trains():
    """Dynamic CoT on posts without a chain of thought has no CoT loss, and trains as SFT."""
    forest = forest_of([[random_tree(i, CONFIG, grids=[(4, 4)], cot=0)] for i in range(2)], CONFIG)
    state, metrics = run(forest, 1, "dyncot", gamma=1e9)
    plain, plain_metrics = run(forest, 1, "sft", gamma=1e9)
    for name in ("loss_cot", "loss_kp", "p_think"):
        assert np.isnan(metrics.pop(name)) and np.isnan(plain_metrics.pop(name))
    assert metrics["cot_share"] == 0 and metrics["skipped"] == 0
    assert metrics == pytest.approx(plain_metrics, rel=1e-6)
    for path, leaf in flatten(plain["trainable"]).items():
        np.testing.assert_allclose(flatten(state["trainable"])[path], leaf, rtol=1e-6, atol=1e-7)


def test_the_gradient_norm_is_reported_before_clipping():
    clipped = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    state, metrics = run(FOREST, 1, "sft", optimizer=clipped)
    start = flatten(PARAMS)
    moved = {path: leaf - start[path] for path, leaf in flatten(state["trainable"]).items()}
    assert metrics["grad_norm"] > 0.1
    np.testing.assert_allclose(np.sqrt(sum((d**2).sum() for d in moved.values())), 1e-3, rtol=1e-2)
