"""Run by test_hlo.py in a process of its own, with eight fake devices; prints one JSON line."""

import functools
import json

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from mmkp_jax.planning.collectives import collectives
from mmkp_jax.planning.hlo import parse_hlo

MESH = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
BOTH = ("a", "b")


def sent(function, spec: PartitionSpec, shape: tuple[int, int]) -> dict[str, list[float]]:
    """By kind: how often, bytes a device, and of these those between two slices of four devices."""
    mapped = jax.shard_map(function, mesh=MESH, in_specs=spec, out_specs=PartitionSpec(), check_vma=False)
    text = jax.jit(mapped).lower(jax.ShapeDtypeStruct(shape, jnp.float32)).compile().as_text()
    found = collectives(parse_hlo(text), chips=8, slices=2, true_share=0.5)
    return {each.kind: [each.times, each.bytes, each.between_slices] for each in found}


def gather_five_times(x: jax.Array) -> jax.Array:
    """Each turn's part depends on the turn before."""

    def turn(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return x + jax.lax.all_gather(x, BOTH, tiled=True)[:16] * 0.5, None

    return jax.lax.scan(turn, x, length=5)[0]


if __name__ == "__main__":
    report = {
        "gathered": sent(gather_five_times, PartitionSpec(BOTH), (128, 128)),
        "summed": sent(functools.partial(jax.lax.psum, axis_name=BOTH), PartitionSpec(), (128, 128)),
        "within": sent(functools.partial(jax.lax.psum, axis_name="b"), PartitionSpec(), (128, 128)),
    }
    print(json.dumps(report))
