"""Run by test_attention.py in a process of its own, with eight fake devices; prints one JSON line."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mmkp_jax.models.sharding import MESH_AXES, make_mesh
from mmkp_jax.ops.attention import Block, blockwise_attention, forest_mask
from mmkp_jax.ops.layout import ROW_AXES
from mmkp_jax.ops.sliced import forest_slices
from tests.support.plain_attention import plain_attention

COLLECTIVE = re.compile(r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)\(")


def main() -> None:
    T, width, report = 260, 16, {}
    mesh = make_mesh(dict(zip(MESH_AXES, (2, 2, 2), strict=True)))
    segment_BT = jnp.asarray(np.tile(np.repeat([1, 2, 0], [150, 80, 30]), (4, 1)))
    branch_BT = jnp.asarray(np.random.default_rng(0).integers(0, 3, (4, T)) * (segment_BT > 0))
    mask = forest_mask(segment_BT, branch_BT)
    for K in (2, 1):
        rng = np.random.default_rng(K)
        q, k, v, g = (rng.standard_normal((4, T, n, width), np.float32) for n in (4, K, K, 4))

        def run(q, k, v, g, mask, attend):
            out, pull = jax.vjp(lambda *qkv: attend(*qkv, mask), q, k, v)
            return out, *pull(g)

        plain = jax.jit(run, static_argnums=5)(q, k, v, g, mask, plain_attention)
        heads = PartitionSpec(ROW_AXES, None, "tensor")
        shared = PartitionSpec(ROW_AXES, None, "tensor" if K == 2 else None)
        specs = (heads, shared, shared, heads, PartitionSpec(ROW_AXES))
        args = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip((q, k, v, g, mask), specs, strict=True)]
        with jax.set_mesh(mesh):
            sends = {}
            for name, attend in (("plain", plain_attention), ("sliced", sliced)):
                compiled = jax.jit(run, static_argnums=5).lower(*args, attend).compile()
                sends[name] = sorted(found[1] for found in COLLECTIVE.finditer(compiled.as_text()))
            ours = compiled(*args)
        error = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, plain, strict=True))
        report[str(K)] = {"error": error, **sends}
    print(json.dumps(report))


def sliced(q, k, v, mask):
    blocks = [Block(queries, keys, mask[:, queries, keys]) for queries, keys in forest_slices(q.shape[1], 150)]
    return blockwise_attention(q, k, v, blocks)


if __name__ == "__main__":
    main()
