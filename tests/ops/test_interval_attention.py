"""Attention where every query has an interval of keys of its own, in each backend: a plain statement in float64.

float32; bound 1e-5 of the largest value, where about 7e-7 is seen.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.ops import splash, tokamax
from mmkp_jax.ops.attention import DENSE
from mmkp_jax.ops.sliced import SLICED
from tests.support.needs_tokamax import needs_tokamax

BOUND = 1e-5
BACKENDS = {
    "dense": DENSE,
    "sliced": SLICED,
    "splash": splash.splash_backend(interpret=True),
    "tokamax": tokamax.tokamax_backend("xla_chunked"),
}
CASES = {"several blocks of queries, more keys": (300, 700), "one block": (40, 24), "fewer keys": (270, 130)}


def intervals(queries: int, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Two rows of random intervals: some empty, some of one key, of all, and of the last."""
    random = np.random.default_rng(queries)
    ends = np.sort(random.integers(0, keys + 1, (2, queries, 2)), axis=2).astype(np.int32)
    ends[:, ::5] = 0
    ends[:, 1] = 0, keys
    ends[:, 2] = keys - 1, keys
    ends[0, 7:30] = 3, 3
    return ends[..., 0], ends[..., 1]


def plainly(first_BT, end_BT, q_BTNH, k_BSKH, v_BSKH) -> np.ndarray:
    """Query by query, head by head."""
    out = np.zeros(q_BTNH.shape)
    groups = q_BTNH.shape[2] // k_BSKH.shape[2]
    for b, t, n in np.ndindex(q_BTNH.shape[:3]):
        seen = slice(first_BT[b, t], end_BT[b, t])
        if seen.stop > seen.start:
            score = k_BSKH[b, seen, n // groups] @ q_BTNH[b, t, n] * q_BTNH.shape[-1] ** -0.5
            weight = np.exp(score - score.max())
            out[b, t, n] = weight @ v_BSKH[b, seen, n // groups] / weight.sum()
    return out


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.nightly if number else ()) for number, case in enumerate(CASES)]
)
@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=needs_tokamax if name == "tokamax" else ()) for name in BACKENDS]
)
def test_every_query_sees_its_interval_and_nothing_else(backend, case):
    queries, keys = CASES[case]
    first_BT, end_BT = intervals(queries, keys)
    random = np.random.default_rng(1)
    q, k, v, g = (random.standard_normal((2, n, h, 16)) for n, h in ((queries, 4), (keys, 2), (keys, 2), (queries, 4)))

    def run(kind):
        def loss(q, k, v):
            out = BACKENDS[kind].intervals(jnp.asarray(first_BT), jnp.asarray(end_BT), keys)(q, k, v)
            return jnp.sum(out * jnp.float32(g)), out

        (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*map(jnp.float32, (q, k, v)))
        return out, *gradients

    found = run(backend)
    expected = plainly(first_BT, end_BT, q, k, v)
    assert np.abs(found[0] - expected).max() <= BOUND * np.abs(expected).max()
    assert (np.asarray(found[0])[first_BT == end_BT] == 0).all()
    for ours, dense in zip(found[1:], run("dense")[1:], strict=True):
        assert np.isfinite(ours).all() and np.abs(ours - dense).max() <= BOUND * np.abs(dense).max()
