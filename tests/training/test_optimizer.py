"""The optimizer against its equations, and every setting of the config against the step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmkp_jax.data.forest import map_arrays
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.models.definition import flatten
from mmkp_jax.models.sharding import place_batch
from mmkp_jax.training.checkpoint import Checkpoints
from mmkp_jax.training.gamma import gamma_schedule
from mmkp_jax.training.optimizer import adamw
from mmkp_jax.training.setup import load_state, plan_training
from tests.support.tiny import write_model
from tests.support.trees import forest_of
from tests.training.test_setup import CONFIG, ROWS, experiment


def test_adamw_equals_its_equations_with_clipping_decay_of_matrices_and_the_schedule():
    """Two steps by hand: clip to the global norm, moments, bias correction, decoupled decay times the rate."""
    params = {"layer": {"weight": jnp.array([2.0, -1.0]), "bias": jnp.array([3.0]), "scale": jnp.array([1.5])}}
    rates, b1, b2, eps, decay, clip = [0.1, 0.05], 0.9, 0.95, 1e-8, 0.3, 1.0
    optimizer = adamw(lambda step: jnp.array(rates)[step], b1=b1, b2=b2, eps=eps, weight_decay=decay, clip_norm=clip)
    state = optimizer.init(params)
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(params).items()}
    m, v = ({path: np.zeros_like(leaf) for path, leaf in flat.items()} for _ in range(2))
    gradients = [
        {"layer": {"weight": jnp.array([3.0, 4.0]), "bias": jnp.array([12.0]), "scale": jnp.array([0.0])}},
        {"layer": {"weight": jnp.array([0.1, 0.2]), "bias": jnp.array([-0.2]), "scale": jnp.array([0.4])}},
    ]
    for step, gradient in enumerate(gradients):
        norm = np.sqrt(sum(np.square(leaf).sum() for leaf in flatten(gradient).values()))
        assert (norm > clip) == (step == 0)
        for path, leaf in flatten(gradient).items():
            g = np.asarray(leaf, np.float64) * min(1, clip / norm)
            m[path] = b1 * m[path] + (1 - b1) * g
            v[path] = b2 * v[path] + (1 - b2) * g**2
            direction = m[path] / (1 - b1 ** (step + 1)) / (np.sqrt(v[path] / (1 - b2 ** (step + 1))) + eps)
            pull = decay * flat[path] if path.endswith("weight") else 0
            flat[path] = flat[path] - rates[step] * (direction + pull)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    for path, leaf in flatten(params).items():
        np.testing.assert_allclose(leaf, flat[path], rtol=1e-5, err_msg=path)


def test_moments_in_bfloat16_take_half_the_memory_and_steps_stay_close():
    """Twenty steps on a quadratic: within a percent of the result with float32 moments."""

    def descend(dtype):
        target, params = jnp.linspace(-1, 1, 64), {"layer": {"weight": jnp.zeros(64), "bias": jnp.zeros(64)}}
        optimizer = adamw(
            optax.constant_schedule(0.02),
            b1=0.9,
            b2=0.95,
            eps=1e-8,
            weight_decay=0.0,
            clip_norm=1e9,
            moments_dtype=dtype,
        )
        state = optimizer.init(params)
        for _ in range(20):
            gradient = jax.tree.map(lambda leaf: leaf - target, params)
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params["layer"]["weight"], sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    (wide, wide_bytes), (narrow, narrow_bytes) = descend(jnp.float32), descend(jnp.bfloat16)
    assert narrow_bytes - 8 == (wide_bytes - 8) / 2  # except for two counters
    assert 0 < np.abs(wide - narrow).max() < 0.01 * np.abs(wide).max()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    write_model(path, CONFIG)
    return open_folder(str(path))


def outcome(folder, **fields) -> tuple[dict, dict]:
    """Parameters and metrics after two steps."""
    settings = {"compute_dtype": "float32", "gamma": 6.0, "gamma_mode": "fixed", "warmup_steps": 3} | fields
    plan = plan_training(experiment(**settings), folder.config, devices=jax.devices()[:1])
    state = load_state(plan, folder)
    batch = map_arrays(lambda a: a[None], forest_of(ROWS, CONFIG))
    with jax.set_mesh(plan.mesh):
        for _ in range(2):
            state, metrics, _ = plan.step(state, place_batch(batch, plan.mesh))
    params = {path: np.asarray(leaf, np.float32) for path, leaf in flatten(state["trainable"]).items()}
    return params, {name: float(value) for name, value in metrics.items()} | {"next": float(state["gamma"]["gamma"])}


@pytest.fixture(scope="module")
def usual(folder):
    return outcome(folder, strategy="dyncot")


OF_THE_OPTIMIZER = [
    {"learning_rate": 1e-3},
    {"warmup_steps": 1},
    {"b1": 0.5},
    {"b2": 0.5},
    {"eps": 1e-2},
    {"weight_decay": 3.0},
    {"clip_norm": 1e-6},
]


@pytest.mark.parametrize("fields", OF_THE_OPTIMIZER)
def test_each_setting_reaches_the_optimizer(folder, fields):
    def updates(**fields):
        settings = experiment(**{"warmup_steps": 3} | fields)
        plan = plan_training(settings, folder.config, devices=jax.devices()[:1])
        params = {"layer": {"weight": jnp.linspace(-1, 1, 8)}}
        state, gradient = plan.optimizer.init(params), {"layer": {"weight": jnp.linspace(1e-3, 2e-3, 8)}}
        for _ in range(2):
            change, state = plan.optimizer.update(gradient, state, params)
            gradient = jax.tree.map(lambda leaf: 2 * leaf, gradient)
        return change["layer"]["weight"]

    usual = updates()
    assert np.abs(updates(**fields) - usual).max() > 1e-5 * np.abs(usual).max()


@pytest.mark.parametrize(
    "fields", [{"freeze": ("visual",)}, *(pytest.param(each, marks=pytest.mark.nightly) for each in OF_THE_OPTIMIZER)]
)
def test_each_setting_reaches_the_parameters(folder, usual, fields):
    changed, _ = outcome(folder, strategy="dyncot", **fields)
    assert any(np.abs(changed[path] - usual[0][path]).max() > 1e-5 for path in changed)


@pytest.mark.nightly
def test_the_weight_of_multitask_reaches_the_parameters(folder):
    (half, _), (most, _) = (outcome(folder, strategy="multitask", multitask_weight=each) for each in (0.5, 0.9))
    assert any(np.abs(half[path] - most[path]).max() > 1e-5 for path in half)


@pytest.mark.parametrize("named", ["float32", "bfloat16"])
def test_moments_are_stored_in_the_given_dtype(folder, named):
    plan = plan_training(experiment(moments_dtype=named), folder.config, devices=jax.devices()[:1])
    moments = [leaf.dtype.name for leaf in jax.tree.leaves(plan.state["optimizer"]) if leaf.shape]
    assert set(moments) == {named} and len(moments) == 2 * len(jax.tree.leaves(plan.state["trainable"]))


def test_moments_in_host_memory_stay_there_and_do_not_change_any_number(folder, usual, tmp_path):
    changed, _ = outcome(folder, moments_memory="host")
    for path, leaf in usual[0].items():
        np.testing.assert_array_equal(changed[path], leaf, err_msg=path)

    plan = plan_training(experiment(moments_memory="host"), folder.config, devices=jax.devices()[:1])
    batch = place_batch(map_arrays(lambda a: a[None], forest_of(ROWS, CONFIG)), plan.mesh)
    on_device = plan_training(experiment(), folder.config, devices=jax.devices()[:1]).state
    with jax.set_mesh(plan.mesh), Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state, *_ = plan.step(load_state(plan, folder), batch)
        saved = [np.array(leaf) for leaf in jax.tree.leaves(state)]
        checkpoints.save(1, state, {})
        state, *_ = plan.step(state, batch)  # which may write where the saved moments were
        restored = [checkpoints.restore(1, layout).state for layout in (plan.state, on_device)]
    for each, expected in ((state, "pinned_host"), (restored[0], "pinned_host"), (restored[1], "device")):
        where = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(each["optimizer"]) if leaf.shape}
        assert where == {expected}
        assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(each["trainable"])} == {"device"}
    for each in restored:
        for ours, theirs in zip(jax.tree.leaves(each), saved, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_each_setting_of_gamma_reaches_its_schedule(folder):
    def schedule(**fields):
        return plan_training(experiment(**fields), folder.config, devices=jax.devices()[:1]).gamma_schedule

    assert schedule(gamma=0.1) == gamma_schedule("fixed", 0.1, experiment().gamma_ema_decay)
    assert schedule(gamma_mode="ema", gamma_ema_decay=0.9).ema_decay == 0.9


@pytest.mark.nightly
def test_each_setting_of_gamma_reaches_gamma(folder):
    after = {decay: outcome(folder, gamma_mode="ema", gamma_ema_decay=decay)[1]["next"] for decay in (0.1, 0.9)}
    assert abs(after[0.1] - after[0.9]) > 0.1
    assert outcome(folder, gamma=0.1)[1]["gamma"] == pytest.approx(0.1)


def test_a_step_is_the_learning_rate_times_the_gradient_of_the_mean_loss():
    """Plain SGD against jax.grad of the mean of the posts' losses: the sum over posts is divided once, by all posts."""
    from mmkp_jax.training.step import forest_losses
    from tests.training.test_step import EXAMPLES, FOREST, MODEL, PARAMS, run

    def mean_loss(params):
        losses = forest_losses(MODEL.definition, params, FOREST, examples=EXAMPLES, dtype=jnp.float32)
        return losses.sft_BS.sum() / losses.has_sft_BS.sum()

    gradient = flatten(jax.jit(jax.grad(mean_loss))(PARAMS))
    state, _ = run(FOREST, 2, "sft", optimizer=optax.sgd(0.5), freeze=())
    start = flatten(PARAMS)
    for path, leaf in flatten(state["trainable"]).items():
        moved, expected = np.asarray(leaf) - start[path], -0.5 * np.asarray(gradient[path])
        assert np.linalg.norm(moved - expected) <= 1e-5 * np.linalg.norm(expected) + 1e-6, path
