"""Our side: the jitted, donated train step of `training.setup`, on packed rows."""

import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.machine import describe_machine
from benchmarks.trainers.job import STILL, STRATEGIES, Job, packed, random_weights, share_out, smallest
from benchmarks.trainers.meter import Meter
from mmkp_jax.data.forest import Forest, RowSize, pack_rows
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import Folder
from mmkp_jax.hf.save import save_params
from mmkp_jax.hf.tensors import find_files
from mmkp_jax.models.definition import Params, flatten, unflatten
from mmkp_jax.models.flops import step_flops, work_of
from mmkp_jax.models.sharding import place_batch
from mmkp_jax.runtime.config import default_config
from mmkp_jax.training.objectives import objective
from mmkp_jax.training.setup import DTYPES, Plan, load_state, plan_training
from mmkp_jax.training.step import make_train_step

FREEZE = ("tower",)


def write_folder(job: Job, folder: Path) -> None:
    """Writes the model's folder, with random weights."""
    published = job.sizes.published
    shapes = {path: leaf.shape for path, leaf in flatten(define(published).shapes()).items()}
    save_params(unflatten(random_weights(shapes, job.seed)), published, folder, np.dtype("float32"))


def gradient_as_update() -> optax.GradientTransformation:
    """An optimizer that leaves the parameters as they are and keeps the last gradient as its state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradient, state, params=None: (jax.tree.map(jnp.zeros_like, gradient), gradient),
    )


class Ours:
    """Our trainer. Methods take and return plain values, as another process calls them."""

    def __init__(self, folder: str, job: Job):
        self.job, self.trees, self.processor = job, job.trees(), job.processor
        self.folder = Folder(Path(folder), job.sizes.published, find_files(Path(folder)))
        self.gamma = 0.0
        self.state: Any = None
        self.ready: dict[tuple[str, str], tuple[Plan, Any, list[Forest]]] = {}
        self.meter = Meter(self._peak_of_device)

    def about(self) -> dict[str, Any]:
        """The machine, the model's parameters and the number that train."""
        plan, _, _ = self._planned("sft", self._names()[0])
        sizes = {part: sum(leaf.size for leaf in jax.tree.leaves(plan.state[part])) for part in ("trainable", "frozen")}
        return {"machine": describe_machine(), "platform": jax.default_backend(), **sizes}

    def variants(self, strategy: str) -> list[str]:
        """Names of the ways to lay out the posts."""
        return self._names()

    def run(self, strategy: str, variant: str) -> dict[str, Any]:
        """Trains on all posts once."""
        plan, step, batches = self._planned(strategy, variant)
        if step is None:
            step = self._compile(strategy, variant)
        state = {**self.state, "gamma": {**self.state["gamma"], "gamma": jnp.float32(self.gamma)}}
        with jax.set_mesh(plan.mesh), self.meter as meter:
            for batch in batches:
                state, metrics, _ = step(state, batch)
            jax.block_until_ready((state, metrics))
        self.state = state
        return meter.taken | {"fill": float(metrics["fill_tokens"])}

    def gradients(self, strategy: str, gamma: float, out: str) -> dict[str, Any]:
        """Writes the gradient of the mean loss of all posts, from the step itself; losses by post."""
        self.state = None
        plan, _, batches = self._planned(strategy, self._names()[-1])
        (batch,) = batches
        dtype, examples = DTYPES[self.job.dtype], plan_examples(batch)
        recorder, schedule = gradient_as_update(), plan.gamma_schedule
        step = make_train_step(
            plan.definition, recorder, objective(strategy), schedule, examples=examples, dtype=dtype
        )
        state = self._state(plan)
        state = {**state, "optimizer": recorder.init(state["trainable"])}
        state["gamma"] = {**state["gamma"], "gamma": jnp.float32(gamma)}
        with jax.set_mesh(plan.mesh):
            state, metrics, losses = jax.jit(step, donate_argnums=0)(state, batch)
        found = {name: self._by_post(getattr(losses, f"{name}_BS")) for name in ("sft", "cot")}
        if out:
            save_params(jax.device_get(state["optimizer"]), self.job.sizes.published, Path(out))
        return found | {"loss": float(metrics["loss"]), "on_cot": float(metrics["cot_share"])}

    def set_gamma(self, gamma: float) -> None:
        """Sets the threshold of Dynamic CoT."""
        self.gamma = gamma

    def needed_flops(self, strategy: str, on_cot: list[bool]) -> float:
        """FLOPs of matrix products that training on all posts needs.

        Under Dynamic CoT: the chosen target both ways, and the SFT target of posts on their CoT forward only.
        """
        plan, _, _ = self._planned(strategy, self._names()[0])

        def flops(trees: list, *, forward: bool = False) -> float:
            if not trees:
                return 0.0
            rows = [[tree] for tree in trees]
            work = work_of(pack_rows(rows, smallest(rows, self.processor), self.processor), self.processor)
            parts = step_flops(plan.definition, FREEZE, work).values()
            return sum(part.forward if forward else part.total for part in parts)

        if strategy != "dyncot":
            return flops([packed(tree, strategy) for tree in self.trees])
        chosen = [packed(tree, "cot" if cot else "sft") for tree, cot in zip(self.trees, on_cot, strict=True)]
        moved = [tree for tree, cot in zip(self.trees, on_cot, strict=True) if cot]
        again = flops(moved, forward=True) - flops([packed(tree, "cot") for tree in moved], forward=True)
        return flops(chosen) + again

    def tokens(self, strategy: str) -> int:
        """Tokens of all posts as rows hold them, padding excluded."""
        trees = [packed(tree, strategy) for tree in self.trees]
        return sum(len(tree.prompt) - 1 + len(tree.sft) + len(tree.cot) for tree in trees)

    def product_peak(self) -> float:
        """FLOP/s of a large matrix product in the job's dtype: the best of five."""
        n = 2048 if jax.default_backend() == "cpu" else 8192
        a = jnp.ones((n, n), DTYPES[self.job.dtype])
        product = jax.jit(lambda a, b: a @ b).lower(a, a).compile()
        taken = []
        for _ in range(6):
            start = time.perf_counter()
            product(a, a).block_until_ready()
            taken.append(time.perf_counter() - start)
        return 2 * n**3 / min(taken[1:])

    def profile(self, strategy: str, variant: str) -> dict[str, float]:
        """Seconds by part of one pass over the posts; empty where the trace has no operations."""
        from benchmarks.trainers.profile import by_part

        self.run(strategy, variant)
        _, step, _ = self._planned(strategy, variant)
        return by_part(step.as_text(), lambda: self.run(strategy, variant))

    def _names(self) -> list[str]:
        each = [f"{n} posts a row" if n > 1 else "1 post a step" for n in self.job.sizes.per_row]
        return each

    def _planned(self, strategy: str, variant: str) -> tuple[Plan, Any, list[Forest]]:
        if (strategy, variant) not in self.ready:
            rows, size, batches = self._pack(strategy, int(variant.split()[0]))
            plan = plan_training(self._config(strategy, size, batches[0]), self.folder.config, devices=jax.devices()[:1])
            placed = [place_batch(batch, plan.mesh) for batch in batches]
            self.ready[strategy, variant] = plan, None, placed
        return self.ready[strategy, variant]

    def _compile(self, strategy: str, variant: str) -> Any:
        plan, _, batches = self.ready[strategy, variant]
        if self.state is None:
            self.state = self._state(plan)
        with jax.set_mesh(plan.mesh):
            step = plan.step.lower(self.state, batches[0]).compile()
        self.ready[strategy, variant] = plan, step, batches
        return step

    def _state(self, plan: Plan) -> Any:
        with jax.set_mesh(plan.mesh):
            return load_state(plan, self.folder)

    def _pack(self, strategy: str, per_row: int) -> tuple[list[list[int]], RowSize, list[Forest]]:
        """Batches [A, B, ...]: one post a step, or all rows in one step."""
        trees = [packed(tree, strategy) for tree in self.trees]
        rows = self._rows(per_row)
        size = smallest([[trees[i] for i in row] for row in rows], self.processor, self.job.sizes.multiple)
        forest = pack_rows([[trees[i] for i in row] for row in rows], size, self.processor)
        if per_row == 1:
            return rows, size, [jax.tree.map(lambda a, b=b: a[b][None, None], forest) for b in range(len(rows))]
        return rows, size, [jax.tree.map(lambda a: a[:, None], forest)]  # a row at a time

    def _rows(self, per_row: int) -> list[list[int]]:
        return share_out(self.trees, -(-len(self.trees) // per_row))

    def _by_post(self, loss_ABS: jax.Array) -> list[float]:
        rows = self._rows(self.job.sizes.per_row[-1])
        loss_RS = np.asarray(loss_ABS).reshape(len(rows), -1)
        found = {post: float(loss_RS[r, s]) for r, row in enumerate(rows) for s, post in enumerate(row)}
        return [found[post] for post in range(len(self.trees))]

    def _config(self, strategy: str, size: RowSize, batch: Forest) -> Any:
        config, (steps, rows) = default_config(), batch.segment_BT.shape[:2]
        config.update(
            strategy=strategy,
            learning_rate=STILL,
            total_steps=1_000_000,
            global_batch_size=steps * rows,
            accumulation_steps=steps,
            compute_dtype=self.job.dtype,
            frozen_dtype=self.job.dtype,
            remat=self.job.sizes.remat,
            freeze=FREEZE,
        )
        config.row.update(tokens=size.tokens, labels=size.labels, examples=size.examples)
        config.row.images.update(size.images)
        return config

    @staticmethod
    def _peak_of_device() -> int | None:
        stats = jax.devices()[0].memory_stats()
        return stats.get("peak_bytes_in_use") if stats else None


def plan_examples(batch: Forest) -> int:
    """The most posts of a row."""
    return int(batch.segment_BT.max())
