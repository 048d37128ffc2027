"""Setup from a config and a model folder; every unusable setting is one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs.base import get_config
from mmkp_jax.data.forest import map_arrays
from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.models.definition import flatten
from mmkp_jax.models.sharding import place_batch
from mmkp_jax.training.setup import load_state, plan_training
from tests.support.tiny import hf_config_dict, tiny_config, write_model
from tests.support.trees import forest_of, random_tree, row_size

CONFIG = tiny_config()
ROWS = [[random_tree(3 * b + s, CONFIG, grids=[(4, 6)]) for s in range(2)] for b in range(4)]


def experiment(**fields):
    config = get_config()
    config.row.update(row_size(ROWS, CONFIG).__dict__)
    config.update(global_batch_size=4, learning_rate=3e-3, warmup_steps=2, total_steps=40, remat=False)
    config.update(fields)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    write_model(path, CONFIG)
    return open_folder(str(path))


@pytest.mark.parametrize(
    "mode", ["fixed", *(pytest.param(mode, marks=pytest.mark.nightly) for mode in ("mean", "ema"))]
)
def test_bf16_dynamic_cot_overfits_both_targets(folder, mode):
    """Overfits eight posts: keyphrases first, then, where their loss is below γ, the chains of thought."""
    plan = plan_training(experiment(gamma_mode=mode, gamma=0.4), folder.config, devices=jax.devices()[:1])
    state = load_state(plan, folder)
    assert {leaf.dtype for leaf in flatten(state["trainable"]).values()} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in flatten(state["frozen"]).values()} == {jnp.dtype("bfloat16")}
    batch = map_arrays(lambda a: a[None], forest_of(ROWS, CONFIG))
    seen = []
    with jax.set_mesh(plan.mesh):
        for _ in range(40):
            state, metrics, _ = plan.step(state, place_batch(batch, plan.mesh))
            seen.append({name: float(value) for name, value in metrics.items()})
    assert seen[0]["cot_share"] == 0 and seen[0]["posts"] == 8
    assert max(step["cot_share"] for step in seen) > 0.5
    assert seen[-1]["loss_cot"] < 0.3 * seen[0]["loss_cot"]
    if mode == "fixed":  # the SFT loss falls to γ, and stays there while the chains are learned
        assert 0.3 < seen[-1]["loss_sft"] < 0.45 and seen[10]["loss_cot"] > 0.9 * seen[0]["loss_cot"]
    assert int(state["step"]) == 40 and int(state["gamma"]["posts"]) == 320
    if mode != "fixed":
        assert seen[0]["gamma"] == 0 and seen[1]["gamma"] == pytest.approx(seen[0]["loss_sft"], rel=1e-6)


@pytest.mark.parametrize(
    "fields, line",
    [
        (
            {"strategy": "dyn-cot"},
            "config.strategy: unknown strategy 'dyn-cot' (did you mean 'dyncot'?); "
            "choose one of zeroshot, sft, cot, multitask, dyncot, decoupled",
        ),
        (
            {"gamma_mode": "average"},
            "config.gamma_mode: unknown gamma_mode 'average' (known: ema, fixed, mean, quantile); "
            "choose one of fixed, mean, ema, quantile",
        ),
        (
            {"freeze": ("vision",)},
            "config.freeze: 'vision' matches no parameter (known: decoder, visual); "
            "give parameter paths or their prefixes",
        ),
        (
            {"mesh": {"data": 2, "fsdp": 1}},
            "config.mesh: 2 x 1 x 1 (data, fsdp, tensor) does not use exactly 1 devices; "
            "make the product of the sizes the number of devices, or one size -1",
        ),
        (
            {"global_batch_size": 5, "accumulation_steps": 2},
            "config.global_batch_size: 5 rows do not divide into 2 micro-batches; give a multiple of 2",
        ),
        (
            {"compute_dtype": "bf16"},
            "config.compute_dtype: unknown compute_dtype 'bf16' (did you mean 'bfloat16'?); "
            "choose one of float32, bfloat16",
        ),
        (
            {"attention": "dens"},
            "config.attention: unknown attention 'dens' (did you mean 'dense'?); choose one of auto, dense, sliced, "
            "splash, tokamax",
        ),
        (
            {"moments_memory": "hosts"},
            "config.moments_memory: unknown moments_memory 'hosts' (did you mean 'host'?); choose one of device, host",
        ),
        ({"gamma": float("nan")}, "config.gamma: nan is out of range; give a number from 0 to 1e+09"),
        ({"multitask_weight": 7.0}, "config.multitask_weight: 7.0 is out of range; give a number from 0 to 1"),
        ({"clip_norm": 0.0}, "config.clip_norm: 0.0 is out of range; give a number from 1e-12"),
        ({"warmup_steps": -1}, "config.warmup_steps: -1 is out of range; give a whole number from 0"),
        ({"posts_per_step": -1}, "config.posts_per_step: -1 is out of range; give a whole number from 0"),
    ],
)
def test_a_bad_setting_is_one_line(fields, line):
    with pytest.raises(InputError) as error:
        plan_training(experiment(**fields), hf_config_dict(CONFIG), devices=jax.devices()[:1])
    assert str(error.value) == line


def test_another_architecture_is_one_line():
    llava = {**hf_config_dict(CONFIG), "model_type": "qwen3_5_vl"}
    with pytest.raises(InputError) as error:
        plan_training(experiment(), llava, "ckpt/config.json", devices=jax.devices()[:1])
    assert str(error.value).startswith(
        "ckpt/config.json: model_type 'qwen3_5_vl' is not implemented (did you mean 'qwen2_5_vl'?); "
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_act": "gelu"}, "'hidden_act' is \"gelu\""),
        ({"use_sliding_window": True}, "'use_sliding_window' is true"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [2, 3, 3]}}, "'rope_scaling.type' is \"yarn\""),
        ({"num_hidden_layers": None}, "has no 'num_hidden_layers'"),
        ({"vision_config": {}}, "has no 'vision_config.depth'"),
        ({"rope_scaling": {"type": "mrope"}}, "mrope_section [16, 24, 24] is not three numbers"),
    ],
)
def test_an_unimplemented_config_is_one_line(change, message):
    with pytest.raises(InputError) as error:
        plan_training(experiment(), {**hf_config_dict(CONFIG), **change}, "ckpt/config.json", devices=jax.devices()[:1])
    assert str(error.value).startswith(f"ckpt/config.json: {message}") and "\n" not in str(error.value)


def test_the_loaded_state_has_the_folders_weights(folder):
    plan = plan_training(experiment(frozen_dtype="float32"), folder.config, devices=jax.devices()[:1])
    state = load_state(plan, folder)
    theirs = load_file(folder.path / "model.safetensors")
    embedding = theirs["model.embed_tokens.weight"]
    np.testing.assert_array_equal(state["trainable"]["decoder"]["embedding"], embedding)
    qkv = theirs["visual.blocks.2.attn.qkv.weight"]
    np.testing.assert_array_equal(state["frozen"]["visual"]["blocks"]["qkv"]["weight"][2], qkv)
