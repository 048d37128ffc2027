"""Compiles a config's programs for a topology; runs in its own process, with the environment of `compiling.py`.

    python -m mmkp_jax.planning.compile_worker FOLDER

Reads `request.json` in FOLDER. Writes there `doing`, the name of the program that is compiled; `{program}.hlo` for each
that compiles; and `result.json`.
"""

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from ml_collections import ConfigDict

from mmkp_jax.data.forest import RowSize, empty_rows, map_arrays, row_size
from mmkp_jax.decoding.generate import Generator
from mmkp_jax.errors import InputError
from mmkp_jax.models.definition import Params
from mmkp_jax.models.freezing import join_params
from mmkp_jax.models.sharding import MEMORIES, batch_sharding
from mmkp_jax.planning.topologies import Topology, gpu_description, read_topology
from mmkp_jax.runtime.atomic import write_text
from mmkp_jax.training.feature_cache import planned_features
from mmkp_jax.training.setup import Plan, dtype_of, plan_training

REQUEST, DOING, RESULT = "request.json", "doing", "result.json"

MEMORY = ("argument", "output", "alias", "temp", "generated_code")
"""The parts of a program's memory that the compiler reports."""

ANY_STEPS = 1_000_000
"""Steps of a run whose epochs are not counted yet; no shape depends on the number."""


def run(folder: Path) -> dict[str, Any]:
    """The content of `result.json`: `error` ([what, where, hint]), or `state`, `mesh` and `programs`."""
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    config, topology = ConfigDict(request["config"]), read_topology(request["topology"])
    try:
        devices = devices_of(topology)
        plan = plan_training(config, request["published"], request["where"], devices, config.total_steps or ANY_STEPS)
    except InputError as error:
        return {"error": [error.what, error.where, error.hint]}
    in_host = tree_bytes(plan.state, in_host=True)
    if config.moments_memory == "host" and not in_host:  # JAX drops the name of a memory that devices do not report
        what = f"the ahead-of-time compiler for {topology.chip.name} does not know its host's memory"
        return {"error": [what, "config.moments_memory", "plan with device: the plan reports what moments take"]}
    with jax.default_device(devices[0]):  # a library of kernels asks which device it is for
        programs = compile_all({"train": lower_step(config, plan)}, folder)
        if request["prompt"]:
            programs |= compile_all(lower_decoding(config, plan, RowSize(**request["prompt"])), folder)
    if request["prompt"]:
        add_resident_memory(programs, sum(tree_bytes(plan.state[kind]) for kind in ("trainable", "frozen")))
    return {"state": state_bytes(plan), "in_host": in_host, "mesh": dict(plan.mesh.shape), "programs": programs}


def add_resident_memory(programs: Mapping[str, dict[str, Any]], params: float) -> None:
    """Adds to the arguments of the decoding programs what else is in memory while they run.

    That is the parameters (`params` bytes), the decoder's weights, the cache, and the prompts prefilled last.
    """
    prefill, decode = programs["prefill"], programs["decode"]
    if "argument" in prefill and "argument" in decode:
        prefill["argument"] += decode["argument"] - params
        decode["argument"] += prefill["output"]
        if "argument" in (growth := programs.get("growth", {})):
            growth["argument"] += decode["argument"] - growth["output"]


def compile_all(programs: Mapping[str, jax.stages.Lowered], folder: Path) -> dict[str, dict[str, Any]]:
    """Compiles programs, writes their texts to `folder`, and returns their memory, or why the compiler refused them."""
    results = {}
    for name, lowered in programs.items():
        start = time.perf_counter()
        write_text(folder / DOING, name)
        try:
            compiled, fallback = compile_anyhow(lowered)
        except jax.errors.JaxRuntimeError as error:
            results[name] = {"refused": first_line(error)}
            continue
        memory = compiled.memory_analysis()
        results[name] = {part: getattr(memory, f"{part}_size_in_bytes") for part in MEMORY}
        results[name] |= {"seconds": time.perf_counter() - start, "fallback": fallback}
        (folder / f"{name}.hlo").write_text(compiled.as_text(), encoding="utf-8")
    return results


def compile_anyhow(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, bool]:
    """The compiled program, and whether it lacks Triton's matrix products: where XLA finds no tiling for one of them.

    JAX 0.11 needs this for some programs on a machine without the GPU, where XLA cannot try out tilings.
    """
    try:
        return lowered.compile(), False
    except jax.errors.JaxRuntimeError as error:
        if "No supported config found" not in str(error):
            raise
        return lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": False}), True


def devices_of(topology: Topology) -> Sequence[jax.Device]:
    """The devices of a topology, which need not exist on this machine.

    Raises:
        InputError: the compiler does not know this layout.
    """
    try:
        if topology.chip.platform == "cpu":
            return jax.devices()
        if topology.chip.platform == "gpu":
            text, shape = gpu_description(topology.chip.name), f"1x{topology.slices}x{topology.layout}"
            return topologies.get_topology_desc(platform="cuda", target_config=text, topology=shape).devices
        slices = {"num_slices": topology.slices} if topology.slices > 1 else {}
        name = f"{topology.chip.name}:{topology.layout}"
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **slices).devices
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        what = f"the compiler does not know this layout ({first_line(error)})"
        raise InputError(what, f"--topology={topology.name}", "give one that can be rented, such as v5e:4x4") from None


def lower_step(config: ConfigDict, plan: Plan) -> jax.stages.Lowered:
    """The train step, lowered from shapes alone."""
    steps = config.accumulation_steps
    processor = plan.definition.processor
    features = planned_features(config, plan.definition)
    rows = empty_rows(config.global_batch_size // steps, row_size(config.row, processor), processor, features)
    sharding = batch_sharding(plan.mesh)
    batch = map_arrays(lambda a: jax.ShapeDtypeStruct((steps, *a.shape), a.dtype, sharding=sharding), rows)
    with jax.set_mesh(plan.mesh):
        return plan.step.lower(plan.state, batch)


def lower_decoding(config: ConfigDict, plan: Plan, prompt: RowSize) -> dict[str, jax.stages.Lowered]:
    """Prefill, decoding of a few tokens, and growth of the cache (if it grows), lowered as an evaluation runs them."""
    generator = Generator(
        plan.definition,
        plan.mesh,
        slots=config.eval_batch_size,
        answer_tokens=config.answer_tokens,
        stop_tokens=(),
        dtype=dtype_of(config, "compute_dtype"),
    )
    return generator.lower(join_params(plan.state["trainable"], plan.state["frozen"]), prompt)


def state_bytes(plan: Plan) -> dict[str, float]:
    """Bytes that a chip keeps between steps, by kind."""
    return {kind: tree_bytes(plan.state[kind]) for kind in ("trainable", "frozen", "optimizer")}


def tree_bytes(tree: Params, *, in_host: bool = False) -> float:
    """Bytes of one chip's part of the arrays: of those in its own memory, or of those in its host's."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if (leaf.sharding.memory_kind == MEMORIES["host"]) == in_host]
    return float(sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves))


def first_line(error: Exception) -> str:
    """The first line of a compiler's message, without the kind of error before it."""
    return re.sub(r"^[A-Z_]+: ", "", str(error).strip().splitlines()[0])


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / RESULT).write_text(json.dumps(run(target)), encoding="utf-8")
