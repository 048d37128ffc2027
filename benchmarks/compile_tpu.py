"""What the 3B's train step takes on a TPU slice that is not here: compiled ahead of time, memory a chip.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python -m benchmarks.compile_tpu [--topology=v5e:4x4] [--rows=N]

Needs the libtpu that `jax[tpu]` names; no TPU. Both attention backends, N rows a chip, everything else as in
`configs/base.py`.
"""

import argparse
import time

import jax
from jax.experimental import topologies

from benchmarks.machine import describe_machine
from configs.base import get_config
from mmkp_jax.assembly import plan_training
from mmkp_jax.data.forest import Forest, Geometry, RowSize, empty_rows
from mmkp_jax.models.qwen2_5_vl_config import QWEN2_5_VL_3B
from mmkp_jax.sharding import batch_sharding
from tests.tiny import hf_config_dict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--rows", type=int, default=1, help="rows a chip")
    args = parser.parse_args()
    devices = topologies.get_topology_desc(platform="tpu", topology_name=args.topology).devices
    print(f"{args.topology}, {len(devices)} chips, {args.rows} rows a chip; compiled on {describe_machine()}")
    for attention in ("dense", "splash"):
        config = get_config()
        config.attention, config.global_batch_size = attention, args.rows * len(devices)
        plan = plan_training(config, hf_config_dict(QWEN2_5_VL_3B), devices=devices, total_steps=1000)
        rows = empty_rows(config.global_batch_size, RowSize(**config.row), Geometry(QWEN2_5_VL_3B.image_token_id))
        sharding = batch_sharding(plan.mesh)
        batch = Forest(*(jax.ShapeDtypeStruct((1, *a.shape), a.dtype, sharding=sharding) for a in rows))
        start = time.perf_counter()
        with jax.set_mesh(plan.mesh):
            memory = plan.step.lower(plan.state, batch).compile().memory_analysis()
        print(
            f"{attention:7} {memory.argument_size_in_bytes / 1e9:6.2f} GB of arguments, "
            f"{memory.temp_size_in_bytes / 1e9:6.2f} GB of temporaries a chip; "
            f"compiled in {time.perf_counter() - start:.0f} s"
        )


if __name__ == "__main__":
    main()
