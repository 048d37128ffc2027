"""A train step's seconds, memory and MFU with an attention backend, on random weights made on the device.

python -m benchmarks.accelerator.steps --size=tiny|3b --attention=NAME --notes=FILE [--steps=N]
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.job import StepJob, step_job
from benchmarks.accelerator.notes import Notes
from benchmarks.machine import describe_machine
from mmkp_jax.errors import InputError
from mmkp_jax.models.definition import Params, flatten, unflatten
from mmkp_jax.models.mfu import needed_flops, peak_flops
from mmkp_jax.models.sharding import place_batch
from mmkp_jax.planning.compile_worker import compile_anyhow
from mmkp_jax.training.setup import Plan, plan_training
from mmkp_jax.training.step import init_state

SPREAD = 0.02
"""Standard deviation of the weights."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", required=True)
    parser.add_argument("--attention", required=True)
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    notes = Notes(args.notes)
    try:
        measure(step_job(args.size, args.attention), args.steps, notes)
    except InputError as error:
        raise SystemExit(str(error)) from None


def measure(job: StepJob, steps: int, notes: Notes) -> None:
    """Notes what the step needs, then what it is compiled to, then each run of it."""
    device = jax.devices()[0]
    flops = needed_flops(job.definition, job.config.freeze, job.batch)
    notes.put(machine=describe_machine(), posts=job.posts, tokens=job.work.tokens, needed_flops=flops)
    plan = plan_training(job.config, job.published, devices=[device])
    batch = place_batch(job.batch, plan.mesh)
    with jax.set_mesh(plan.mesh):
        start = time.perf_counter()
        step, fallback = compile_anyhow(plan.step.lower(plan.state, batch))
        seconds = time.perf_counter() - start
        notes.put(compile_seconds=seconds, compiled_bytes=bytes_of(step), without_triton_products=fallback)
        state, times = random_state(plan), []
        for _ in range(steps + 1):
            start = time.perf_counter()
            state, metrics, _ = jax.block_until_ready(step(state, batch))
            times.append(time.perf_counter() - start)
            if len(times) == 1:
                numbers = {name: float(metrics[name]) for name in ("loss", "grad_norm", "skipped")}
                notes.put(first_step=numbers)
            else:  # the first warms up
                notes.put(**speeds(times[1:], job, flops, device))
    notes.put(peak_bytes=peak_of(device))


def speeds(seconds: list[float], job: StepJob, flops: float, device: jax.Device) -> dict[str, Any]:
    """The median step in all units; MFU where the device's peak is known."""
    median, peak = float(np.median(seconds)), peak_flops([device], job.config.compute_dtype)
    mfu = {"mfu": flops / median / peak} if peak else {}
    rates = {"posts_a_second": job.posts / median, "tokens_a_second": job.work.tokens / median}
    return {"step_seconds": median, "steps": len(seconds), "all_seconds": seconds, **rates, **mfu}


def peak_of(device: jax.Device) -> int | None:
    """The most bytes that were allocated at once; None where the platform does not say."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def bytes_of(step: jax.stages.Compiled) -> int:
    """Bytes of the device's memory that the program holds at once, by the compiler."""
    of = step.memory_analysis()
    return of.argument_size_in_bytes + of.output_size_in_bytes + of.temp_size_in_bytes - of.alias_size_in_bytes


def random_state(plan: Plan) -> Any:
    """The state before the first step, made on the device."""

    def drawn(key: jax.Array, of: Params) -> Params:
        leaves = flatten(of)
        keys = dict(zip(leaves, jax.random.split(key, max(1, len(leaves))), strict=False))
        return unflatten({path: draw(keys[path], path, leaf) for path, leaf in leaves.items()})

    def draw(key: jax.Array, path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        numbers = SPREAD * jax.random.normal(key, leaf.shape, leaf.dtype)
        return numbers + jnp.asarray(path.endswith(".scale"), leaf.dtype)

    def made(key: jax.Array) -> Any:
        of_trainable, of_frozen = jax.random.split(key)
        trainable, frozen = drawn(of_trainable, plan.state["trainable"]), drawn(of_frozen, plan.state["frozen"])
        return init_state(trainable, frozen, plan.optimizer, plan.gamma_schedule)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, plan.state)
    return jax.jit(made, out_shardings=shardings)(jax.random.key(0, impl="rbg"))


if __name__ == "__main__":
    main()
