"""tokamax's attention equals the dense reference: outputs and gradients, real slots only.

On a CPU it runs as tokamax's plain XLA; its kernels are only lowered there, for CUDA. No test here needs a GPU.
"""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from mmkp_jax.errors import InputError
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.models.definition import define_from, flatten, random_params
from mmkp_jax.ops import tokamax
from mmkp_jax.ops.attention import DENSE, Backend
from mmkp_jax.ops.backends import RowAttention, backend_name
from mmkp_jax.ops.tokamax import TOKAMAX, implementation_for, tokamax_backend
from mmkp_jax.training.step import forest_losses
from tests.support.attention_rows import BOUND, CONFIG, FORESTS, IMAGES, errors, tree
from tests.support.devices import fake_devices
from tests.support.needs_tokamax import INSTALLED, needs_tokamax
from tests.support.paths import ROOT
from tests.support.trees import forest_of

H100 = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu"))
SEVERAL = FORESTS["several posts, both branches, padding"]


@needs_tokamax
@pytest.mark.parametrize("name", FORESTS)
def test_forest_equals_dense(name):
    segment_BT, branch_BT = FORESTS[name]
    attend, dense = (backend.forest(segment_BT, branch_BT, None) for backend in (TOKAMAX, DENSE))
    assert max(errors(attend, dense, segment_BT > 0, (4, 2), 16)) <= BOUND


@needs_tokamax
@pytest.mark.parametrize("name", IMAGES)
def test_images_equal_dense(name):
    image_BP = IMAGES[name]
    attend, dense = (backend.images(image_BP, None) for backend in (TOKAMAX, DENSE))
    assert max(errors(attend, dense, image_BP > 0, (2, 2), 80)) <= BOUND


@needs_tokamax
@pytest.mark.parametrize("heads, width", [((4, 1), 80), ((6, 2), 128), ((2, 2), 64)])
def test_groups_of_heads_and_widths(heads, width):
    segment_BT, branch_BT = SEVERAL
    attend, dense = (backend.forest(segment_BT, branch_BT, None) for backend in (TOKAMAX, DENSE))
    assert max(errors(attend, dense, segment_BT > 0, heads, width)) <= BOUND


@needs_tokamax
def test_bf16_inputs_give_bf16_outputs_as_near_as_dense_ones():
    segment_BT, branch_BT = SEVERAL
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((*segment_BT.shape, n, 128)), jnp.bfloat16) for n in (4, 2, 2))
    real = segment_BT > 0
    exact = DENSE.forest(segment_BT, branch_BT, None)(*(x.astype(jnp.float32) for x in (q, k, v)))[real]

    def error(backend: Backend) -> float:
        out = backend.forest(segment_BT, branch_BT, None)(q, k, v)
        assert out.dtype == jnp.bfloat16
        return float(jnp.linalg.norm(out[real] - exact) / jnp.linalg.norm(exact))

    assert error(TOKAMAX) <= 1.5 * error(DENSE) <= 0.01


@needs_tokamax
def test_the_model_gives_the_losses_and_gradients_of_dense():
    """Through the scan over layers, its rematerialisation, and the tower's choice between window and image."""
    rows = [[tree(0, grids=[(4, 6), (10, 8)]), tree(1)], [tree(2, grids=())]]
    forest = forest_of(rows, CONFIG, spare=4)
    params = random_params(define_from(FAMILY, CONFIG), 0, spread=0.1)

    def run(attention: str):
        definition = define_from(FAMILY, CONFIG, remat=True, attention=RowAttention(attention))

        def loss(params):
            losses = forest_losses(definition, params, forest, examples=2, dtype=jnp.float32)
            return losses.sft_BS.sum() + 2 * losses.cot_BS.sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    (ours, gradient), (theirs, expected) = run("tokamax"), run("dense")
    np.testing.assert_allclose(ours, theirs, rtol=BOUND)
    gradient, expected = flatten(gradient), flatten(expected)
    whole = max(np.linalg.norm(leaf) for leaf in expected.values())
    for path, leaf in expected.items():
        assert np.linalg.norm(gradient[path] - leaf) <= BOUND * max(np.linalg.norm(leaf), 1e-3 * whole), path


@needs_tokamax
def test_sharded_equals_one_device():
    """Eight fake devices: rows over data and fsdp, heads over tensor where every device gets whole groups."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.sharded_kernels", "tokamax"],
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


@needs_tokamax
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rule, heads, width", [("forest", (4, 2), 128), ("images", (2, 2), 80)])
def test_triton_kernels_are_lowered_for_cuda_in_both_directions(rule, heads, width, dtype):
    from tokamax import config

    backend, rows = tokamax_backend("triton"), SEVERAL if rule == "forest" else SEVERAL[:1]
    shape = rows[0].shape
    q, k, v = (jax.ShapeDtypeStruct((*shape, n, width), dtype) for n in (heads[0], heads[1], heads[1]))

    def loss(q, k, v):
        return jnp.sum(getattr(backend, rule)(*rows, None)(q, k, v).astype(jnp.float32))

    with config.cross_compile(True), jax.sharding.use_abstract_mesh(H100):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, v).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert text.count("xla.gpu.triton(") == 2  # one kernel forward, one backward
    assert not re.search(r"512x512x(f32|bf16)", text)  # no scores: rows of 267 slots are padded to 512


def test_mosaic_on_hopper_and_blackwell_for_16_bits_triton_elsewhere_and_xla_on_a_cpu():
    def chosen(platform: str, capability: str, dtype) -> str:
        return implementation_for(
            SimpleNamespace(platform=platform, compute_capability=capability, device_kind=f"GPU {capability}"), dtype
        )

    assert [chosen("gpu", each, jnp.bfloat16) for each in ("8.0", "8.9", "9.0", "10.0", "12.0")] == [
        *("triton", "triton", "mosaic_gpu", "mosaic_gpu", "triton")
    ]
    assert chosen("gpu", "9.0", jnp.float32) == "triton"
    assert implementation_for(jax.devices("cpu")[0], jnp.float32) == "xla_chunked"
    for platform, capability in (("gpu", "7.5"), ("tpu", "0")):
        with pytest.raises(InputError, match=f"config.attention: tokamax has no kernels for GPU {capability}; choose"):
            chosen(platform, capability, jnp.bfloat16)


def test_tokamax_is_chosen_by_name_alone_and_must_be_installed():
    assert "tokamax" not in {backend_name("auto", platform) for platform in ("tpu", "gpu", "cpu")}
    if INSTALLED:
        assert backend_name("tokamax", "gpu") == "tokamax"
        return
    with pytest.raises(InputError, match=r"config.attention: tokamax is not installed; pip install .*\[tokamax\]"):
        backend_name("tokamax", "gpu")


@needs_tokamax
def test_a_release_without_the_parts_that_are_used_is_one_line(monkeypatch):
    monkeypatch.delattr("tokamax._src.ops.attention.base.Mask")
    tokamax.library.cache_clear()
    with pytest.raises(InputError, match=r"config.attention: tokamax [\d.]+ differs from the tested release"):
        backend_name("tokamax", "gpu")
    tokamax.library.cache_clear()
