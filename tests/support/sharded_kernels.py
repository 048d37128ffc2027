"""Run by test_splash.py and test_tokamax.py in a process of its own, with eight fake devices; prints one JSON line."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mmkp_jax.models.sharding import MESH_AXES, make_mesh
from mmkp_jax.ops import splash, tokamax
from mmkp_jax.ops.attention import DENSE, Backend
from mmkp_jax.ops.layout import ROW_AXES
from tests.support.tiny import tiny_config
from tests.support.trees import forest_of, random_tree

CASES = [
    ((1, 8, 1), "forest", 2),
    ((2, 2, 2), "forest", 2),
    ((2, 2, 2), "forest", 1),
    ((2, 2, 2), "images", 4),
]
"""Mesh, rule, key-value heads (of four query heads)."""


KERNEL_HEADS: list[int] = []
"""Query heads and key-value heads that a device's kernel was last called with."""


def splash_watched() -> Backend:
    real = splash._attend_row

    def watched(interpret, blocks, q_TNH, k_TKH, v_TKH):
        KERNEL_HEADS[:] = [q_TNH.shape[1], k_TKH.shape[1]]
        return real(interpret, blocks, q_TNH, k_TKH, v_TKH)

    splash._attend_row = watched
    return splash.splash_backend(interpret=True)


def tokamax_watched() -> Backend:
    real = tokamax._attend_rows

    def watched(name, intervals, q_BTNH, k_BTKH, v_BTKH):
        KERNEL_HEADS[:] = [q_BTNH.shape[2], k_BTKH.shape[2]]
        return real(name, intervals, q_BTNH, k_BTKH, v_BTKH)

    tokamax._attend_rows = watched
    return tokamax.TOKAMAX


def main(kernels: Backend) -> None:
    config = tiny_config()
    forest = forest_of([[random_tree(2 * b, config), random_tree(2 * b + 1, config)] for b in range(8)], config, 5)
    report = {}
    for sizes, rule, K in CASES:
        rows = (forest.segment_BT, forest.branch_BT) if rule == "forest" else (forest.images.image_BP,)
        here = (rows[0] > 0)[..., None, None]
        rng = np.random.default_rng(0)
        q, k, v, g = (rng.standard_normal((*rows[0].shape, n, 16), np.float32) for n in (4, K, K, 4))

        def run(backend, q, k, v, rows, g=g * here, here=here, rule=rule):
            def loss(q, k, v):
                out = getattr(backend, rule)(*rows)(q, k, v)
                return jnp.sum(out * g), out * here

            gradients, out = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
            return out, *gradients

        expected = jax.jit(lambda *args, run=run: run(DENSE, *args))(q, k, v, rows)
        mesh = make_mesh(dict(zip(MESH_AXES, sizes, strict=True)))
        args = jax.device_put((q, k, v, rows), NamedSharding(mesh, PartitionSpec(ROW_AXES)))
        with jax.set_mesh(mesh):
            ours = jax.jit(lambda *args, run=run: run(kernels, *args))(*args)
        error = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, expected, strict=True))
        report[f"{'x'.join(map(str, sizes))} {rule} {K}"] = {"error": error, "kernel heads": list(KERNEL_HEADS)}
    print(json.dumps(report))


if __name__ == "__main__":
    main({"splash": splash_watched, "tokamax": tokamax_watched}[sys.argv[1]]())
