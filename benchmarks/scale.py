"""Plans of the real models on unavailable machines, a line for each, and how costs grow with the chips.

    python -m benchmarks.scale [--only=scale|growth]

Train steps of `configs/dyncot.py` with parameters over all chips and a row a chip, compiled ahead of time by `plan`,
one after the other; some minutes each. Needs the extras tpu and cuda12; no accelerator, no weights, no data.
"""

import argparse
import time

from benchmarks.machine import describe_machine
from mmkp_jax.planning.plan import plan_line
from mmkp_jax.planning.text import markdown_table
from mmkp_jax.planning.topologies import read_topology
from mmkp_jax.planning.workload import Workload, workload_of
from mmkp_jax.runtime.config import read_config

MODELS = ("3b", "7b")
SCALE = ("v5e:4x4", "v6e:2x4", "v5p:2x2x4", "h100:8")
GROWTH = ("h100:8", "h100:8*2", "h100:8*4", "h100:8*8", "h100:8*16", "h100:8*32", "v6e:2x4", "v6e:16x16")


def workload_on(model: str, chips: int) -> Workload:
    """A model's experiment with a row a chip."""
    config = f"configs/dyncot.py:model=qwen2_5_vl_{model},data=mmkp_v2,mesh=fsdp"
    return workload_of(read_config(config, [f"--config.global_batch_size={chips}"]))


def line_of(model: str, name: str) -> dict[str, str]:
    """The cells of a model on a topology."""
    start, topology = time.perf_counter(), read_topology(name)
    cells = plan_line(workload_on(model, topology.chips), topology)
    print(f"{model} on {name}: {time.perf_counter() - start:.0f} s", flush=True)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("scale", "growth"))
    only = parser.parse_args().only
    print(describe_machine())
    if only != "growth":
        print(markdown_table([line_of(model, name) for model in MODELS for name in SCALE]))
    if only != "scale":
        print(markdown_table([line_of("7b", name) for name in GROWTH]))


if __name__ == "__main__":
    main()
