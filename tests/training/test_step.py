"""The optimizer step: what trains, what is left out, and that splitting a batch changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmkp_jax.data.forest import Forest, Tree, pack_rows
from mmkp_jax.errors import InputError
from mmkp_jax.models.definition import flatten
from mmkp_jax.models.freezing import join_params, split_params
from mmkp_jax.training.gamma import gamma_schedule
from mmkp_jax.training.objectives import objective
from mmkp_jax.training.optimizer import adamw, decay_mask, learning_rate, warmup_length
from mmkp_jax.training.step import init_state, make_train_step, summed_gradient
from tests.support.zoo import TinyModel, first_geometries, forest_of, model_of, random_tree, row_size

MODEL = model_of("qwen2_5_vl")
"""The model of what does not depend on the family."""

PARAMS = MODEL.params
FROZEN = MODEL.definition.family.paths(["tower"])
EXAMPLES = 3
GAMMA = 6.3
"""Some posts of each of the zoo's models have a smaller loss, and some a larger one."""


def trees_of(model: TinyModel) -> list[Tree]:
    """Five posts, the third without a chain of thought."""
    return [random_tree(i, model, images=[i % 2], cot=0 if i == 2 else 6) for i in range(5)]


def batch_of(model: TinyModel) -> Forest:
    """Four rows, of 1, 2, 2 and no posts."""
    trees = trees_of(model)
    return forest_of([trees[:1], trees[1:3], trees[3:], []], model, spare=2)


TREES = trees_of(MODEL)
FOREST = batch_of(MODEL)


SGD = optax.sgd(0.1)


@functools.cache
def step_of(model, strategy, gamma, optimizer):
    """The compiled step, one for all tests that share it, and its schedule."""
    schedule, options = gamma_schedule("fixed", gamma), {"examples": EXAMPLES, "dtype": jnp.float32}
    definition = model_of(model).definition
    return jax.jit(make_train_step(definition, optimizer, objective(strategy), schedule, **options)), schedule


def run(forest, micro, strategy="dyncot", gamma=GAMMA, optimizer=SGD, freeze=FROZEN, steps=1, model=MODEL):
    trainable, frozen = split_params(model.params, freeze)
    frozen = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), frozen)
    step, schedule = step_of(model.name, strategy, gamma, optimizer)
    batch = jax.tree.map(lambda a: a.reshape(micro, -1, *a.shape[1:]), forest)
    state = init_state(trainable, frozen, optimizer, schedule)
    for _ in range(steps):
        state, metrics, _ = step(state, batch)
    return state, {name: float(value) for name, value in metrics.items()}


def test_the_gradients_of_micro_batches_are_held_once():
    """By the compiled program: no second copy of them for the micro-batch at hand."""
    weights = jax.random.normal(jax.random.key(0), (8, 128, 128)) / 128**0.5

    def loss_of(weights, forest, key):
        hidden, _ = jax.lax.scan(jax.checkpoint(lambda h, w: (jnp.tanh(h @ w), None)), forest.segment_BT, weights)
        return (hidden**2).sum(), ({}, hidden)

    forest = FOREST._replace(segment_BT=jnp.ones((4, 2, 128)), images=())
    compiled = jax.jit(lambda w: summed_gradient(loss_of, w, (forest, None))).lower(weights).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < weights.nbytes / 2


def micro_batches_equal_one_batch(model: TinyModel, strategy: str) -> None:
    """Plain SGD, so that an error of the gradient is one of the update. The bound is 1e-5 of a parameter's change, plus
    1e-6 for the rounding of the parameter. Everything trains: all of the model's parameters move."""
    forest, start = batch_of(model), flatten(model.params)
    whole, whole_metrics = run(forest, 1, strategy, freeze=(), model=model)
    split, split_metrics = run(forest, 4, strategy, freeze=(), model=model)
    assert not flatten(whole["frozen"]) and flatten(whole["trainable"]).keys() == start.keys()
    for path, leaf in flatten(whole["trainable"]).items():
        change = np.linalg.norm(leaf - start[path])
        assert change > 0, path
        assert np.linalg.norm(flatten(split["trainable"])[path] - leaf) <= 1e-5 * change + 1e-6, path
    assert split_metrics == pytest.approx(whole_metrics, rel=1e-5)
    assert strategy != "dyncot" or 0 < whole_metrics["cot_share"] < 1


@pytest.mark.parametrize("name, geometry", first_geometries(default=("qwen2_5_vl",)))
def test_micro_batches_with_unequal_posts_equal_one_big_batch(name, geometry):
    micro_batches_equal_one_batch(model_of(name, geometry), "dyncot")


@pytest.mark.nightly
@pytest.mark.parametrize("strategy", ["sft", "cot", "multitask"])
def test_micro_batches_equal_one_big_batch_with_each_strategy(strategy):
    micro_batches_equal_one_batch(MODEL, strategy)


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
    size = row_size([[tree] for tree in TREES], MODEL.processor)
    singles = [run(pack_rows([[tree]], size, MODEL.processor), 1, "sft")[1]["loss"] for tree in TREES]
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
    forest = forest_of([[random_tree(i, MODEL, cot=0)] for i in range(2)], MODEL)
    state, metrics = run(forest, 1, "dyncot", gamma=1e9)
    plain, plain_metrics = run(forest, 1, "sft", gamma=1e9)
    for name in ("loss_cot", "loss_kp", "p_think", "p_think_balance"):
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
