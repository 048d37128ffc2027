"""Run by test_decisions.py in a process of its own, with eight fake devices; prints one JSON line.

By mesh and decision: the posts on CoT in three steps, and γ after them. On the last mesh the rows are in another order,
as hosts with several micro-batches have them. Label losses are drawn, no model computes them.
"""

import json

import jax
import numpy as np

from mmkp_jax.data.forest import map_arrays
from mmkp_jax.models.sharding import MESH_AXES, batch_sharding, make_mesh, place_batch
from mmkp_jax.training.decisions import DECISIONS, Threshold, step_keys
from mmkp_jax.training.gamma import Seen, gamma_schedule, init_gamma, update_gamma
from mmkp_jax.training.losses import example_losses
from mmkp_jax.training.objectives import objective
from tests.support.sharded_step import MESHES, batch_of
from tests.support.zoo import model_of


def main() -> None:
    batch, size = batch_of(model_of("qwen2_5_vl"), 1)
    batch = batch._replace(images=())
    nll_1BM = np.random.default_rng(0).exponential(1.0, batch.label_BM.shape).astype(np.float32)

    def step_of(decision: str):
        train = objective("dyncot", decision=decision)
        schedule = gamma_schedule("fixed" if DECISIONS[decision].is_random else "quantile", 0.5)

        def step(state, number, nll, forest):
            losses = example_losses(nll[0], map_arrays(lambda array: array[0], forest), size.examples)
            threshold = Threshold(state["gamma"], keys=step_keys(3, number))
            choice = train(losses, threshold)
            below = losses.has_cot_BS & (choice.number_BS < threshold.gamma)
            each = (choice.number_BS * losses.has_sft_BS, losses.has_sft_BS, below, choice.on_cot_BS, losses.has_cot_BS)
            seen = Seen(*(array.sum(dtype=np.float32) for array in each))
            return update_gamma(schedule, state, seen), choice.on_cot_BS

        return jax.jit(step), schedule

    found = {}
    for name, sizes in MESHES.items():
        mesh = make_mesh(dict(zip(MESH_AXES, sizes, strict=True)), jax.devices()[: int(np.prod(sizes))])
        order_B = np.roll(np.arange(8), 3 if name == list(MESHES)[-1] else 0)
        placed = place_batch(map_arrays(lambda array, order_B=order_B: array[:, order_B], batch), mesh)
        nll = jax.device_put(nll_1BM[:, order_B], batch_sharding(mesh))
        found[name] = {}
        for decision in DECISIONS:
            step, schedule = step_of(decision)
            state, seen = init_gamma(schedule), []
            for number in range(3):
                state, on_cot_BS = step(state, number, nll, placed)
                seen.append(np.asarray(on_cot_BS)[np.argsort(order_B)].tolist())
            found[name][decision] = {"on_cot": seen, "gamma": float(state["gamma"])}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
