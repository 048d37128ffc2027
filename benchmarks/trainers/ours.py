"""Our side: the jitted, donated train step of `training.setup`, as `main` uses it, on packed rows."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from benchmarks.machine import describe_machine
from benchmarks.trainers.job import STILL, Job, longest_tree, packed, random_weights, share_out, smallest
from benchmarks.trainers.meter import Meter
from benchmarks.trainers.parts import seconds_by_part
from mmkp_jax.data.forest import Forest, RowSize, Tree, pack_rows
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import Folder
from mmkp_jax.hf.save import save_params
from mmkp_jax.hf.tensors import find_files
from mmkp_jax.models.definition import flatten, unflatten
from mmkp_jax.models.flops import step_flops, work_of
from mmkp_jax.models.sharding import place_batch
from mmkp_jax.runtime.config import default_config
from mmkp_jax.training.setup import DTYPES, Plan, load_state, plan_training

FREEZE = ("tower",)
ALONE = "1 post a step"


class Laid(NamedTuple):
    """The posts of a job in batches for a compiled step."""

    rows: list[list[int]]
    """Posts of each row, by number."""
    batches: list[Forest]
    """Batches [A, B, ...], a step each: one of all rows, one row at a time, or one of each row."""
    plan: Plan
    step: jax.stages.Compiled


class Ours:
    """Our trainer. Methods take and return plain values, as another process calls them."""

    def __init__(self, folder: str, job: Job):
        self.job, self.trees, self.processor = job, job.trees(), job.processor
        if not Path(folder).exists():
            write_folder(job, Path(folder))
        self.folder = Folder(Path(folder), job.sizes.published, find_files(Path(folder)))
        self.gamma = 0.0
        self.state: Any = None
        self.laid: dict[tuple[str, str], Laid] = {}
        self.meter = Meter()

    def about(self) -> dict[str, Any]:
        """The machine, and numbers of parameters."""
        plan = self._laid("sft", self.variants("sft")[0]).plan
        sizes = {part: sum(leaf.size for leaf in jax.tree.leaves(plan.state[part])) for part in ("trainable", "frozen")}
        return {"machine": describe_machine(), **sizes}

    def variants(self, strategy: str) -> list[str]:
        """Names of the ways to lay out the posts."""
        return [ALONE, *(f"{n} post{'s' * (n > 1)} a row" for n in self.job.sizes.per_row)]

    def set_gamma(self, gamma: float) -> None:
        """Sets the threshold of Dynamic CoT."""
        self.gamma = gamma

    def run(self, strategy: str, variant: str) -> dict[str, Any]:
        """Trains on all posts once: seconds, memory, and each post's losses."""
        laid = self._laid(strategy, variant)
        state, losses = self._state(laid.plan), []
        with jax.set_mesh(laid.plan.mesh), self.meter as meter:
            for batch in laid.batches:
                state, metrics, of_step = laid.step(state, batch)
                losses.append(of_step)
            jax.block_until_ready((state, metrics, losses))
        self.state = state
        by_target = {name: self._by_post(laid, [getattr(each, f"{name}_BS") for each in losses]) for name in TARGETS}
        taken = meter.taken | ({} if jax.default_backend() == "cpu" else {"memory": _bytes(laid.step)})
        return taken | self._chosen(strategy, by_target)

    def gradients(self, strategy: str, variant: str, out: str) -> dict[str, Any]:
        """`run` for one step from the start, and the gradient of the posts' mean loss written, from the step itself.

        It is read off AdamW's first moment, which is a known part of the clipped gradient after the first step.
        """
        self.state = None
        config, laid = default_config(), self._laid(strategy, variant)
        with jax.set_mesh(laid.plan.mesh):
            self.state, metrics, _ = laid.step(self._state(laid.plan), *laid.batches)
        part = (1 - config.b1) * min(1, config.clip_norm / float(metrics["grad_norm"]))
        moment = optax.tree.get(self.state["optimizer"], "mu")
        gradient = jax.tree.map(lambda leaf: np.asarray(leaf) / np.float32(part), moment)
        save_params(gradient, self.job.sizes.published, Path(out))
        return self.run(strategy, variant)

    def needed_flops(self, strategy: str, on_cot: list[bool]) -> float:
        """FLOPs of matrix products that training on all posts needs.

        Under Dynamic CoT: the chosen target both ways, and the SFT target of posts on their CoT forward only.
        """
        if strategy != "dyncot":
            return self._flops([packed(tree, strategy) for tree in self.trees])
        chosen = [packed(tree, "cot" if cot else "sft") for tree, cot in zip(self.trees, on_cot, strict=True)]
        moved = [tree for tree, cot in zip(self.trees, on_cot, strict=True) if cot]
        only_cot = [packed(tree, "cot") for tree in moved]
        return self._flops(chosen) + self._flops(moved, forward=True) - self._flops(only_cot, forward=True)

    def tokens(self, strategy: str) -> int:
        """Tokens of all posts and of the targets that the strategy knows, each once."""
        trees = [packed(tree, strategy) for tree in self.trees]
        return sum(len(tree.prompt) - 1 + len(tree.sft) + len(tree.cot) for tree in trees)

    def product_peak(self) -> float:
        """FLOP/s of a large matrix product in the job's dtype: the best of five."""
        n = 2048 if jax.default_backend() == "cpu" else 8192
        a_NN = jnp.ones((n, n), DTYPES[self.job.dtype])
        product = jax.jit(jnp.matmul).lower(a_NN, a_NN).compile()
        taken = []
        for _ in range(6):
            start = time.perf_counter()
            product(a_NN, a_NN).block_until_ready()
            taken.append(time.perf_counter() - start)
        return 2 * n**3 / min(taken[1:])

    def profile(self, strategy: str, variant: str) -> dict[str, float]:
        """Seconds of operations by part of the step, of one `run`; empty where the trace has none."""
        step = self._laid(strategy, variant).step
        return seconds_by_part(step.as_text(), lambda: self.run(strategy, variant))

    def _flops(self, trees: list[Tree], *, forward: bool = False) -> float:
        if not trees:
            return 0.0
        rows = [[tree] for tree in trees]
        work = work_of(pack_rows(rows, smallest(rows, self.processor), self.processor), self.processor)
        plan = self._laid("sft", self.variants("sft")[0]).plan
        parts = step_flops(plan.definition, FREEZE, work).values()
        return sum(part.forward if forward else part.total for part in parts)

    def _laid(self, strategy: str, variant: str) -> Laid:
        if (strategy, variant) not in self.laid:
            trees, alone = [packed(tree, strategy) for tree in self.trees], variant == ALONE
            rows = share_out(self.trees, len(trees) if alone else -(-len(trees) // int(variant.split()[0])))
            row_trees = [[trees[i] for i in row] for row in rows]
            size = smallest(row_trees, self.processor, self.job.sizes.multiple)
            forest = jax.tree.map(lambda a: a[:, None], pack_rows(row_trees, size, self.processor))
            batches = [jax.tree.map(lambda a, r=r: a[r : r + 1], forest) for r in range(len(rows))]
            batches = batches if alone else [forest]
            config = self._config(strategy, size, longest_tree(trees, self.processor), 1 if alone else len(rows))
            plan = plan_training(config, self.folder.config, devices=jax.devices()[:1])
            batches = [place_batch(batch, plan.mesh) for batch in batches]
            with jax.set_mesh(plan.mesh):
                step = plan.step.lower(plan.state, batches[0]).compile()
            self.laid[strategy, variant] = Laid(rows, batches, plan, step)
        return self.laid[strategy, variant]

    def _state(self, plan: Plan) -> Any:
        """The state, with today's γ; the one before the first step if there is none."""
        if self.state is None:
            with jax.set_mesh(plan.mesh):
                self.state = load_state(plan, self.folder)
        return {**self.state, "gamma": {**self.state["gamma"], "gamma": jnp.float32(self.gamma)}}

    def _by_post(self, laid: Laid, losses_ABS: list[jax.Array]) -> list[float]:
        loss_RS = np.concatenate([np.asarray(each).reshape(-1, each.shape[-1]) for each in losses_ABS])
        found = {post: float(loss_RS[r, s]) for r, row in enumerate(laid.rows) for s, post in enumerate(row)}
        return [found[post] for post in range(len(self.trees))]

    def _chosen(self, strategy: str, losses: dict[str, list[float]]) -> dict[str, list]:
        """The loss that each post trains on, and whether it is on its CoT target."""
        if strategy != "dyncot":
            return {"losses": losses[strategy], "on_cot": [strategy == "cot"] * len(self.trees)}
        on_cot = [loss < np.float32(self.gamma) for loss in losses["sft"]]
        chosen = [cot if on else sft for sft, cot, on in zip(losses["sft"], losses["cot"], on_cot, strict=True)]
        return {"losses": chosen, "on_cot": [bool(on) for on in on_cot]}

    def _config(self, strategy: str, size: RowSize, longest: int, rows: int) -> ConfigDict:
        config = default_config()
        config.update(
            strategy=strategy,
            learning_rate=STILL,
            total_steps=1_000_000,
            global_batch_size=rows,
            accumulation_steps=rows,
            compute_dtype=self.job.dtype,
            frozen_dtype=self.job.dtype,
            remat=self.job.sizes.remat,
            freeze=FREEZE,
        )
        config.row.update(tokens=size.tokens, labels=size.labels, examples=size.examples)
        config.row.images.update(size.images)
        if "tree_tokens" in config.row:  # a revision before had none
            config.row.tree_tokens = longest
        return config


TARGETS = ("sft", "cot")


def write_folder(job: Job, folder: Path) -> None:
    """Writes the model's folder, with random weights."""
    published = job.sizes.published
    shapes = {path: leaf.shape for path, leaf in flatten(define(published).shapes()).items()}
    save_params(unflatten(random_weights(shapes, job.seed)), published, folder, np.dtype("float32"))


def _bytes(step: jax.stages.Compiled) -> int:
    """The most bytes of the device's memory that a step holds, as compiled."""
    of = step.memory_analysis()
    return of.argument_size_in_bytes + of.output_size_in_bytes + of.temp_size_in_bytes - of.alias_size_in_bytes
