"""Steps of a number of posts: a plain loop over single posts, a manual resume, and steps that do not fit the rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dyncot
from mmkp_jax.data.examples import tree_of
from mmkp_jax.data.forest import map_arrays
from mmkp_jax.data.pipeline import Position, batches, position_of
from mmkp_jax.data.posts import Post
from mmkp_jax.data.records import write_dataset
from mmkp_jax.errors import InputError
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.models.definition import define_from, flatten, random_params, unflatten
from mmkp_jax.models.freezing import join_params, split_params
from mmkp_jax.models.sharding import place_batch
from mmkp_jax.training.batches import plan_posts
from mmkp_jax.training.optimizer import learning_rate
from mmkp_jax.training.setup import plan_training
from mmkp_jax.training.step import init_state
from tests.data.test_mixing import config_of
from tests.support.alone import alone_loss
from tests.support.posts_on_disk import SIZE, tiny_recipe
from tests.support.tiny import hf_config_dict, tiny_config

CONFIG = tiny_config()
FROZEN = FAMILY.paths(["tower"])
DEFINITION = define_from(FAMILY, CONFIG)
POSTS, GAMMA = 7, 6.0
B1, B2, EPS, DECAY, CLIP, PEAK, WARMUP = 0.9, 0.95, 1e-3, 0.1, 1.0, 3e-3, 2
"""AdamW's eps; with a smaller one it turns rounding errors of a gradient near 0 into whole steps."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return tiny_recipe(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Posts of one length, so that a plain loop compiles once; three with a chain of thought."""
    root = tmp_path_factory.mktemp("posts")
    posts = [
        Post(f"train-{i}", f"post {i} of {POSTS}", None, (f"key {i}",), f"as it is {i}" if i % 2 else None)
        for i in range(POSTS)
    ]
    write_dataset(root / "out", {"train": posts}, root)
    return str(root / "out")


def planned(folder, recipe, **fields):
    return plan_posts(config_of(folder, **fields), recipe)


@functools.cache
def plan_of(rows, micro, total_steps, **fields):
    """The run, set up as `main` does it."""
    config = dyncot.get_config("model=qwen2_5_vl_3b")
    config.row.update(SIZE.__dict__)
    config.update(global_batch_size=rows, accumulation_steps=micro, remat=False, gamma=GAMMA)
    config.update(compute_dtype="float32", frozen_dtype="float32", learning_rate=PEAK, warmup_steps=WARMUP)
    config.update(b1=B1, b2=B2, eps=EPS, weight_decay=DECAY, clip_norm=CLIP, total_steps=total_steps)
    config.update(fields)
    return plan_training(config, hf_config_dict(CONFIG), devices=jax.devices()[:1])


def trained(training, rows, micro=1, steps=None, saved=None, **fields):
    """The state after `steps` (None: all) and the metrics of each, by the run's own feed and step.

    `saved`, a state of such a run, is resumed from.
    """
    plan = plan_of(rows, micro, training.steps, **fields)
    params = split_params(random_params(DEFINITION, 0, spread=0.1), FROZEN)
    state, seen = saved or init_state(*params, plan.optimizer, plan.gamma_schedule), []
    start = position_of(training.plans, int(state["step"]))
    with jax.set_mesh(plan.mesh):
        for _, forest in batches(training.feed, training.plans, start=start):
            if int(state["step"]) == steps:
                break
            batch = map_arrays(lambda array: array.reshape(micro, -1, *array.shape[1:]), forest)
            state, metrics, _ = plan.step(state, place_batch(batch, plan.mesh))
            seen.append({name: float(value) for name, value in metrics.items()})
    return state, seen


def literal_loop(training, groups):
    """Textbook gradient descent: each post alone, without forest, rows or optax; a step is a group's mean."""
    trainable, frozen = split_params(random_params(DEFINITION, 0, spread=0.1), FROZEN)
    params = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(trainable).items()}
    first, second = ({path: np.zeros_like(leaf) for path, leaf in params.items()} for _ in range(2))
    rate, losses = learning_rate(PEAK, warmup_steps=WARMUP, total_steps=training.steps), []

    def loss_of(trainable, tree, target):
        return alone_loss(DEFINITION, join_params(trainable, frozen), tree, target)

    for step, group in enumerate(groups):
        now = unflatten({path: jnp.asarray(leaf, jnp.float32) for path, leaf in params.items()})
        total, mean = {path: np.zeros_like(leaf) for path, leaf in params.items()}, 0.0
        for post in group:
            tree = tree_of(training.feed.records[post], training.feed.recipe, training.feed.branches)
            loss, gradient = jax.value_and_grad(loss_of)(now, tree, tree.sft)
            if len(tree.cot) and loss < GAMMA:
                loss, gradient = jax.value_and_grad(loss_of)(now, tree, tree.cot)
            mean += float(loss) / len(group)
            for path, leaf in flatten(gradient).items():
                total[path] += np.asarray(leaf, np.float64) / len(group)
        losses.append(mean)
        norm = np.sqrt(sum(np.square(leaf).sum() for leaf in total.values()))
        for path, leaf in total.items():
            g = leaf * min(1.0, CLIP / norm)
            first[path] = B1 * first[path] + (1 - B1) * g
            second[path] = B2 * second[path] + (1 - B2) * g * g
            m, v = first[path] / (1 - B1 ** (step + 1)), second[path] / (1 - B2 ** (step + 1))
            pull = 0 if path.endswith((".scale", ".bias")) else DECAY * params[path]
            params[path] = params[path] - float(rate(step)) * (m / (np.sqrt(v) + EPS) + pull)
    return params, losses


def posts_of(training):
    """The posts of each step, in the plans' order."""
    return [[post for row in batch for post in row] for plan in training.plans for batch in plan]


@pytest.mark.parametrize("posts_per_step, rows, micro", [pytest.param(1, 1, 1, marks=pytest.mark.nightly), (3, 4, 2)])
def test_steps_of_n_posts_equal_a_plain_loop(folder, recipe, posts_per_step, rows, micro):
    """Losses and parameters agree to 1e-5, with empty micro-batches, and a last step that holds the rest."""
    training = planned(folder, recipe, posts_per_step=posts_per_step, global_batch_size=rows, num_epochs=1)
    groups = posts_of(training)
    assert [len(group) for group in groups] == {1: [1] * POSTS, 3: [3, 3, 1]}[posts_per_step]
    state, metrics = trained(training, rows, micro)
    ours = flatten(state["trainable"])
    expected, losses = literal_loop(training, groups)
    assert [each["posts"] for each in metrics] == [len(group) for group in groups]
    assert [each["loss"] for each in metrics] == pytest.approx(losses, rel=1e-5)
    assert {each["cot_share"] for each in metrics} > {0.0}
    for path, leaf in expected.items():
        np.testing.assert_allclose(ours[path], leaf, rtol=0, atol=1e-5 * max(1e-2, np.abs(leaf).max()), err_msg=path)


def test_steps_are_known_before_training_and_the_position_resumes(folder, recipe):
    training = planned(folder, recipe, posts_per_step=2, num_epochs=3)
    assert training.steps == 3 * 4 and [len(plan) for plan in training.plans] == [4, 4, 4]
    assert position_of(training.plans, 6) == Position(1, 2)
    whole = list(batches(training.feed, training.plans))
    again = list(batches(training.feed, training.plans, start=Position(1, 2)))
    for (position, forest), (other, same) in zip(whole[6:], again, strict=True):
        assert position == other
        map_arrays(np.testing.assert_array_equal, forest, same)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        pytest.param(
            {"strategy": "decoupled", "decision": "mode_free", "gamma_mode": "quantile"}, marks=pytest.mark.nightly
        ),
        pytest.param({"decision": "random"}, marks=pytest.mark.nightly),
    ],
    ids=["paper", "decoupled by a share", "random"],
)
def test_a_run_resumed_within_an_epoch_is_bit_identical(folder, recipe, fields):
    training = planned(folder, recipe, posts_per_step=3, global_batch_size=4, num_epochs=1)
    whole, expected = trained(training, 4, 2, **fields)
    half, before = trained(training, 4, 2, steps=2, **fields)
    resumed, after = trained(training, 4, 2, saved=jax.tree.map(np.asarray, half), **fields)
    assert (len(before), len(after)) == (2, 1)
    np.testing.assert_array_equal(*([list(each.values()) for each in run] for run in (before + after, expected)))
    for ours, theirs in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_two_hosts_load_the_posts_of_a_step_between_them(folder, recipe):
    training = planned(folder, recipe, posts_per_step=3, num_epochs=1)
    hosts = [list(batches(training.feed, training.plans, host=host, hosts=2)) for host in range(2)]
    for (_, first), (_, second), group in zip(*hosts, posts_of(training), strict=True):
        assert int(first.segment_BT.max(axis=1).sum() + second.segment_BT.max(axis=1).sum()) == len(group)


def test_too_few_rows_for_the_posts_of_a_step_are_refused_with_the_number_needed(folder, recipe):
    with pytest.raises(
        InputError, match=r"posts_per_step: 7 posts of a step take up to (\d) rows, and a step has 1"
    ) as e:
        planned(folder, recipe, posts_per_step=7, global_batch_size=1)
    needed = int(str(e.value).partition("config.global_batch_size=")[2].partition(" ")[0])
    assert planned(folder, recipe, posts_per_step=7, global_batch_size=needed).steps == 2


@pytest.mark.parametrize("mesh, rows", [("h100_1", 1), ("v5e_16", 16), ("fsdp", 1)])
def test_the_papers_batch_is_one_post_on_as_few_rows_as_the_mesh_allows(mesh, rows):
    for presets in (f"mesh={mesh},batch=paper", f"batch=paper,mesh={mesh}"):
        config = dyncot.get_config(f"model=qwen2_5_vl_3b,{presets}")
        assert (config.posts_per_step, config.accumulation_steps, config.global_batch_size) == (1, 1, rows)
    assert dyncot.get_config("model=qwen2_5_vl_3b").posts_per_step == 0
