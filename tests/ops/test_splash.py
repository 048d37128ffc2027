"""Splash attention, its kernels interpreted, equals the dense reference: outputs and gradients, real slots only."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.models.definition import define_from, flatten, random_params
from mmkp_jax.ops import splash
from mmkp_jax.ops.attention import DENSE, Backend, forest_mask
from mmkp_jax.ops.backends import BACKENDS, RowAttention, backend_name
from mmkp_jax.training.step import forest_losses
from tests.support.attention_rows import BOUND, CONFIG, FORESTS, IMAGES, errors, packed, runs, tree
from tests.support.devices import fake_devices
from tests.support.paths import ROOT
from tests.support.trees import forest_of

INTERPRETED = splash.splash_backend(interpret=True)


@pytest.mark.parametrize("name", FORESTS)
def test_forest_equals_dense(name):
    segment_BT, branch_BT = FORESTS[name]
    attend, dense = (backend.forest(segment_BT, branch_BT) for backend in (INTERPRETED, DENSE))
    assert max(errors(attend, dense, segment_BT > 0, (4, 2), 16)) <= BOUND


@pytest.mark.parametrize("name", IMAGES)
def test_images_equal_dense(name):
    image_BP = IMAGES[name]
    attend, dense = (backend.images(image_BP) for backend in (INTERPRETED, DENSE))
    assert max(errors(attend, dense, image_BP > 0, (2, 2), 80)) <= BOUND


@pytest.mark.parametrize("heads, width", [((4, 1), 80), ((6, 2), 128), ((2, 2), 32)])
def test_groups_of_heads_and_widths(heads, width):
    segment_BT, branch_BT = FORESTS["several posts, both branches, padding"]
    attend, dense = (backend.forest(segment_BT, branch_BT) for backend in (INTERPRETED, DENSE))
    assert max(errors(attend, dense, segment_BT > 0, heads, width)) <= BOUND


def test_bf16_inputs_give_bf16_outputs_as_near_as_dense_ones():
    """Both against float32; softmax and sums in bf16 would err by more than its rounding."""
    segment_BT, branch_BT = FORESTS["several posts, both branches, padding"]
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((*segment_BT.shape, n, 128)), jnp.bfloat16) for n in (4, 2, 2))
    real = segment_BT > 0
    exact = DENSE.forest(segment_BT, branch_BT)(*(x.astype(jnp.float32) for x in (q, k, v)))[real]

    def error(backend: Backend) -> float:
        out = backend.forest(segment_BT, branch_BT)(q, k, v)
        assert out.dtype == jnp.bfloat16
        return float(jnp.linalg.norm(out[real] - exact) / jnp.linalg.norm(exact))

    assert error(INTERPRETED) <= 1.5 * error(DENSE) <= 0.01


@pytest.mark.parametrize("seed", range(3))
def test_every_query_sees_an_interval_of_the_reordered_keys(seed):
    """So the interval's ends lose nothing of the rule."""
    trees = [tree(7 * seed + s, sft=3 * s, cot=40 - 10 * s) for s in range(5)]
    segment_BT, branch_BT = packed(trees, trees[2:], spare=9)
    segment_BT, branch_BT = splash._own_segments(segment_BT), splash._whole_blocks(branch_BT)
    rule = INTERPRETED.forest(segment_BT, branch_BT).args[1]
    mask_BTT = forest_mask(segment_BT, branch_BT)
    in_places_BTS = np.take_along_axis(np.asarray(mask_BTT), np.asarray(rule.slot_BS)[:, None], axis=2)
    place_S = np.arange(mask_BTT.shape[-1])
    np.testing.assert_array_equal(splash._in_interval(rule.ends_BT[..., None], place_S), in_places_BTS)


def test_ends_of_the_longest_row_do_not_overflow():
    ends = jnp.int32(65_000) << 16 | jnp.int32(65_535)
    np.testing.assert_array_equal(splash._in_interval(ends, np.arange(64_998, 65_002)), [False, False, True, True])
    with pytest.raises(InputError, match=r"config.row: rows of 66048 tokens or patches; .* at most 65536"):
        jax.eval_shape(lambda image: INTERPRETED.images(image)(), jax.ShapeDtypeStruct((1, 65_537), jnp.int32))


def test_blocks_that_no_query_may_see_are_skipped_and_not_fetched():
    """Four images of a block each: only the diagonal runs, and no other block of keys is ever asked for."""
    image_BP = runs([1, 512, 2, 512, 3, 512, 4, 100], slots=2048)
    rule = INTERPRETED.images(image_BP).args[1]
    np.testing.assert_array_equal(rule.seen_Bnm[0], np.eye(4))
    np.testing.assert_array_equal(rule.key_block_Bnm[0], np.broadcast_to(np.arange(4)[:, None], (4, 4)))
    np.testing.assert_array_equal(rule.query_block_Bnm[0], np.broadcast_to(np.arange(4), (4, 4)))


def test_the_model_gives_the_losses_and_gradients_of_dense(monkeypatch):
    """Through the scan over layers, its rematerialisation, and the tower's choice between window and image."""
    monkeypatch.setitem(BACKENDS, "splash", INTERPRETED)
    rows = [[tree(0, grids=[(4, 6), (10, 8)]), tree(1)], [tree(2, grids=())]]
    forest = forest_of(rows, CONFIG, spare=4)
    params = random_params(define_from(FAMILY, CONFIG), 0, spread=0.1)

    def run(attention: str):
        definition = define_from(FAMILY, CONFIG, remat=True, attention=RowAttention(attention))

        def loss(params):
            losses = forest_losses(definition, params, forest, examples=2, dtype=jnp.float32)
            return losses.sft_BS.sum() + 2 * losses.cot_BS.sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    (ours, gradient), (theirs, expected) = run("splash"), run("dense")
    np.testing.assert_allclose(ours, theirs, rtol=BOUND)
    gradient, expected = flatten(gradient), flatten(expected)
    whole = max(np.linalg.norm(leaf) for leaf in expected.values())
    for path, leaf in expected.items():
        assert np.linalg.norm(gradient[path] - leaf) <= BOUND * max(np.linalg.norm(leaf), 1e-3 * whole), path


def test_sharded_equals_one_device():
    """Eight fake devices: rows over data and fsdp, heads over tensor where every device gets whole groups."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.sharded_kernels", "splash"],
        cwd=ROOT,
        env=fake_devices(8),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    for case in ("1x8x1 forest 2", "2x2x2 forest 2", "2x2x2 forest 1", "2x2x2 images 4"):
        assert report[case]["error"] <= BOUND, case
    assert report["2x2x2 forest 2"]["kernel heads"] == [2, 1]
    assert report["2x2x2 forest 1"]["kernel heads"] == [4, 1]


def test_auto_takes_splash_on_tpu_only():
    assert {platform: backend_name("auto", platform) for platform in ("tpu", "gpu", "cpu")} == {
        "tpu": "splash",
        "gpu": "sliced",
        "cpu": "sliced",
    }
    with pytest.raises(InputError, match=r"unknown attention 'slash' \(did you mean 'splash'\?\)"):
        backend_name("slash", "tpu")
