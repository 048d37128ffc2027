"""Run by test_sharding.py in a process of its own, with eight fake devices; prints one JSON line.

Three optimizer steps of Dynamic CoT with γ following the mean loss, on several meshes, of every family of the zoo.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import jax
import numpy as np

from configs.base import get_config
from mmkp_jax.data.forest import Forest, RowSize, map_arrays, pack_rows
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.models.definition import flatten
from mmkp_jax.models.sharding import MESH_AXES, place_batch
from mmkp_jax.training.setup import load_state, plan_training
from tests.support.zoo import TinyModel, first_geometries, model_of, random_tree, row_size, write_folder

MESHES = {"1x1x1": (1, 1, 1), "8x1x1": (8, 1, 1), "1x8x1": (1, 8, 1), "2x2x2": (2, 2, 2)}
ON_ALL_MESHES = "qwen2_5_vl"
"""The member on every mesh, and in micro-batches; the others are on the first and the last."""


def batch_of(model: TinyModel, accumulation_steps: int) -> tuple[Forest, RowSize]:
    """Eight rows of one to three posts, some without image, some without chain of thought."""
    kinds = [dict(images=[2]), dict(images=[1], cot=0), dict(images=[]), dict(images=[0, 2], cot=12)]
    rows = [[random_tree(10 * b + s, model, **kinds[(b + s) % 4]) for s in range(1 + b % 3)] for b in range(8)]
    size = row_size(rows, model.processor, spare=1)
    forest = pack_rows(rows, size, model.processor)
    return map_arrays(lambda a: a.reshape(accumulation_steps, -1, *a.shape[1:]), forest), size


def main() -> None:
    report = {}
    for name, geometry in (param.values for param in first_geometries()):
        with tempfile.TemporaryDirectory() as folder:
            found = compare(results_of(model_of(name, geometry), Path(folder), name == ON_ALL_MESHES))
        report |= {f"{name} on {mesh}": each for mesh, each in found.items()}
    print(json.dumps(report))


def results_of(model: TinyModel, folder: Path, on_all: bool) -> dict:
    """By mesh: the metrics of each step, the trained parameters, their shards, compilations, whether moments follow."""
    results, opened = {}, open_folder(str(write_folder(folder, model)))
    for name, sizes in MESHES.items():
        if not on_all and name not in ("1x1x1", "2x2x2"):
            continue
        for accumulation_steps in (1, 4) if on_all and name == "1x1x1" else (1,):
            config = get_config()
            config.update(compute_dtype="float32", learning_rate=1e-2, eps=1e-3, warmup_steps=1, total_steps=20)
            config.frozen_dtype, config.gamma_mode = "float32", "mean"
            config.mesh.update(dict(zip(MESH_AXES, sizes, strict=True)))
            config.accumulation_steps = accumulation_steps
            batch, size = batch_of(model, accumulation_steps)
            config.row.update(dataclasses.asdict(size))
            devices = jax.devices()[: int(np.prod(sizes))]
            plan = plan_training(config, opened.config, devices=devices)
            state = load_state(plan, opened)
            assert all(
                leaf.sharding.is_equivalent_to(planned.sharding, leaf.ndim)
                for leaf, planned in zip(jax.tree.leaves(state), jax.tree.leaves(plan.state), strict=True)
            )
            metrics = []
            with jax.set_mesh(plan.mesh):
                for _ in range(3):
                    state, seen, _ = plan.step(state, place_batch(batch, plan.mesh))
                    metrics.append({key: float(value) for key, value in seen.items()})
            params = {path: np.asarray(leaf) for path, leaf in flatten(state["trainable"]).items()}
            shards = {path: leaf.sharding.shard_shape(leaf.shape) for path, leaf in flatten(state["trainable"]).items()}
            label = name if accumulation_steps == 1 else f"{name} in {accumulation_steps} micro-batches"
            results[label] = metrics, params, shards, plan.step._cache_size(), moments_as_parameters(state)
    return results


def moments_as_parameters(state: dict) -> bool:
    """Whether both moments of every trained parameter are divided as it is."""
    trained = jax.tree.leaves(state["trainable"])
    moments = [leaf for leaf in jax.tree.leaves(state["optimizer"]) if leaf.ndim]
    return len(moments) == 2 * len(trained) and all(
        moment.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
        for moment, leaf in zip(moments, trained * 2, strict=True)
    )


def compare(results: dict) -> dict:
    """Each mesh against one device: metrics, the largest error of a parameter over its norm, and what is sharded."""
    reference_metrics, reference, *_ = results["1x1x1"]
    report = {}
    for name, (metrics, params, shards, compilations, moments) in results.items():
        errors = {path: np.linalg.norm(params[path] - leaf) / np.linalg.norm(leaf) for path, leaf in reference.items()}
        report[name] = {
            "metrics": metrics,
            "metric_error": max(
                abs(one[key] - other[key]) / max(abs(other[key]), 1e-6)
                for one, other in zip(metrics, reference_metrics, strict=True)
                for key in other
            ),
            "param_error": float(max(errors.values())),
            "sharded": sum(shards[path] != leaf.shape for path, leaf in reference.items()),
            "compilations": compilations,
            "moments_as_parameters": moments,
        }
    return report


if __name__ == "__main__":
    main()
