"""Training of the traditional models, by epochs: Adam, halved when the valid loss does not fall; then the joint phase.

In the joint phase, which starts from the best epoch, the decoder alone trains, and copies from the classifier too.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from mmkp_jax.baselines.batches import Batch, Limits, Pair, Source, batch_of, epoch_batches
from mmkp_jax.baselines.model import PAD, Definition, Inputs, choices_of
from mmkp_jax.baselines.sidecars import Regions
from mmkp_jax.errors import InputError
from mmkp_jax.models.definition import Params
from mmkp_jax.runtime.progress import Progress
from mmkp_jax.training.checkpoint import Best, Checkpoints
from mmkp_jax.training.optimizer import clip_by_norm
from mmkp_jax.training.trackers.reporting import Trackers
from mmkp_jax.training.watchdog import Watchdog
from mmkp_jax.training.workdir import MetricsLog


class Data(NamedTuple):
    """Pairs to train on, and those whose loss decides on the learning rate and the end."""

    train: Sequence[Source]
    train_pairs: Sequence[Pair]
    valid: Sequence[Source]
    valid_pairs: Sequence[Pair]
    regions: Regions | None
    limits: Limits


class Place(NamedTuple):
    """Where a run is; saved with its state."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    joint: bool = False
    joint_epoch: int = 0
    """Finished epochs of the joint phase."""
    halvings: int = 0
    lowest: float = math.inf
    """Lowest valid loss of the phase."""
    worse: int = 0
    """Evaluations since then."""
    best_joint: bool = False
    """Whether the best epoch is of the joint phase."""

    def as_json(self) -> dict[str, Any]:
        """The fields; infinity, which JSON lacks, is null."""
        return {**self._asdict(), "lowest": None if math.isinf(self.lowest) else self.lowest}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Place":
        """The inverse of `as_json`."""
        return cls(**{**fields, "lowest": math.inf if fields["lowest"] is None else fields["lowest"]})


class Fit:
    """Training of one model on one dataset.

    Args:
        class_words: words of the classifier's keyphrases, for the joint phase.
    """

    def __init__(self, definition: Definition, config: ConfigDict, data: Data, class_words: np.ndarray):
        self._definition, self._config, self._data, self._class_words = definition, config, data, class_words
        self._length_N = np.array([len(data.train[pair.post].source) for pair in data.train_pairs])
        self._adam = optax.chain(clip_by_norm(config.clip_norm), optax.scale_by_adam())
        self._step = jax.jit(self._update, static_argnames="joint", donate_argnums=0)
        self._loss = jax.jit(partial(self._losses, key=None), static_argnames="joint")

    def train(
        self,
        params: Params,
        workdir: Path,
        validate: Callable[[Params, bool], dict[str, float]] | None,
        watchdog: Watchdog,
    ) -> tuple[int, Params, bool]:
        """Trains to the end, resuming from the last finished epoch.

        Args:
            params: parameters to start with.
            validate: returns valid's scores of parameters; the flag says whether it is the joint phase.

        Returns:
            the step of the best epoch (the last one without `validate`), its parameters, and whether it is of the
            joint phase.
        """
        config, best_metric = self._config, self._config.best_metric
        structs = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), params
        )
        state = {"trainable": params, "optimizer": jax.jit(self._adam.init)(params)}
        with Checkpoints(workdir / "checkpoints", keep=config.keep_checkpoints) as checkpoints:
            restored = checkpoints.restore_latest(jax.tree.map(_struct, state))
            progress = Place.from_json(restored.metadata["progress"]) if restored else Place()
            state = restored.state if restored else state
            log = MetricsLog(workdir, progress.step, Trackers((), workdir))
            with Best(workdir / "best", best_metric, progress.step) as best, watchdog.counting("step"):
                while not self._is_over(progress):
                    if not progress.joint and self._phase_is_over(progress):
                        kept = best.restore({"trainable": structs, "frozen": {}})
                        params = kept.state["trainable"] if kept else state["trainable"]
                        state = {"trainable": params, "optimizer": jax.jit(self._adam.init)(params)}
                        progress = progress._replace(joint=True, halvings=0, lowest=math.inf, worse=0)
                    state, progress = self._epoch(state, progress, log, watchdog)
                    if validate and (progress.epoch % config.eval_every == 0 or self._phase_is_over(progress)):
                        progress = self._evaluate(state, progress, log, best, validate)
                    checkpoints.save(progress.step, state, {"progress": progress.as_json()})
                log.close()
                kept = best.restore({"trainable": structs, "frozen": {}}) if validate else None
                if kept:
                    return kept.step, kept.state["trainable"], progress.best_joint
        return progress.step, state["trainable"], progress.joint

    def _is_over(self, at: Place) -> bool:
        joint = self._config.strategy == "cmkp" and self._config.joint_epochs
        return self._phase_is_over(at) and (at.joint or not joint)

    def _phase_is_over(self, at: Place) -> bool:
        if at.joint:
            return at.joint_epoch >= self._config.joint_epochs or self._is_patient_no_more(at)
        return at.epoch >= self._config.num_epochs or self._is_patient_no_more(at)

    def _is_patient_no_more(self, at: Place) -> bool:
        return bool(self._config.patience) and at.worse >= self._config.patience

    def _epoch(
        self, state: dict[str, Any], at: Place, log: MetricsLog, watchdog: Watchdog
    ) -> tuple[dict[str, Any], Place]:
        config, found = self._config, []
        rate = (config.joint_learning_rate if at.joint else config.learning_rate) / 2**at.halvings
        batches = epoch_batches(self._length_N, config.batch_size, config.seed, at.epoch)
        start, step = time.perf_counter(), at.step
        with Progress(len(batches), units="steps", label=f"epoch {at.epoch + 1}", leave=False) as bar:
            for numbers in batches:
                batch = self._batch(self._data.train, [self._data.train_pairs[each] for each in numbers])
                step += 1
                key = jax.random.fold_in(jax.random.key(config.seed), step)
                state, metrics = self._step(state, batch, key, np.float32(rate), joint=at.joint)
                found.append(metrics)
                bar.advance()
                watchdog.beat()
        seconds = (time.perf_counter() - start) / max(len(batches), 1)
        for number, metrics in enumerate(jax.device_get(found), start=at.step + 1):
            values = {name: float(value) for name, value in metrics.items()}
            if not math.isfinite(values["loss"]):
                what, hint = f"the loss of step {number:,} is not finite", "give a lower config.learning_rate"
                raise InputError(what, "config.learning_rate", hint)
            log.write(number, {**values, "learning_rate": rate, "step_seconds": seconds})
        return state, at._replace(epoch=at.epoch + 1, step=step, joint_epoch=at.joint_epoch + at.joint)

    def _evaluate(self, state: dict[str, Any], at: Place, log: MetricsLog, best: Best, validate: Callable) -> Place:
        params, before = state["trainable"], best.score
        scores = validate(params, at.joint) | {"valid/loss": self.valid_loss(params, joint=at.joint)}
        log.write(at.step, scores)
        best.offer(at.step, {"trainable": params}, scores, {})
        at = at._replace(best_joint=at.joint if best.score > before else at.best_joint)
        loss = scores["valid/loss"]
        print(
            f"epoch {at.epoch}: valid loss {loss:.3f}, "
            f"{self._config.best_metric} {scores[self._config.best_metric]:.4f}"
        )
        if loss < at.lowest:
            return at._replace(lowest=loss, worse=0)
        return at._replace(halvings=at.halvings + 1, worse=at.worse + 1)

    def valid_loss(self, params: Params, *, joint: bool) -> float:
        """The mean loss of valid's pairs."""
        total = count = 0.0
        size = self._config.batch_size
        for start in range(0, len(self._data.valid_pairs), size):
            pairs = self._data.valid_pairs[start : start + size]
            loss, _ = self._loss(params, self._batch(self._data.valid, pairs), joint=joint)
            total, count = total + float(loss) * len(pairs), count + len(pairs)
        return total / max(count, 1)

    def _batch(self, sources: Sequence[Source], pairs: Sequence[Pair]) -> Batch:
        return batch_of(pairs, sources, self._data.regions, self._data.limits, self._config.batch_size)

    def _update(
        self, state: dict[str, Any], batch: Batch, key: jax.Array, rate: jax.Array, *, joint: bool
    ) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        params = state["trainable"]
        trained = {"decoder": params["decoder"]} if joint else params

        def loss(trained: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
            return self._losses(params | trained, batch, key=key, joint=joint)

        gradient, metrics = jax.grad(loss, has_aux=True)(trained)
        if joint:  # with Adam's moments at 0, nothing else moves
            gradient = jax.tree.map(jnp.zeros_like, params) | gradient
        metrics["grad_norm"] = optax.tree.norm(gradient)
        updates, optimizer = self._adam.update(gradient, state["optimizer"])
        params = jax.tree.map(lambda value, update: value - rate * update, params, updates)
        return {"trainable": params, "optimizer": optimizer}, metrics

    def _losses(
        self, params: Params, batch: Batch, *, key: jax.Array | None, joint: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss of a batch (eq. 1 of the paper), and its parts by name."""
        loss, parts = losses(
            self._definition,
            params,
            batch,
            self._class_words if joint else None,
            key,
            generation_weight=self._config.generation_weight,
        )
        return loss, parts | {"loss": loss}


def losses(
    definition: Definition,
    params: Params,
    batch: Batch,
    class_words: np.ndarray | None,
    key: jax.Array | None,
    *,
    generation_weight: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a batch, classification plus the weighted generation, and its parts by name.

    A pair's classification loss is over the training keyphrases, and left out for a keyphrase that is none; the
    generation loss is the mean over the words of all targets.

    Args:
        class_words: the words of the classifier's keyphrases, to copy from; None to copy from the source alone.
        key: of dropout; None for none.
    """
    model, inputs = definition.bind(params), Inputs(*map(jnp.asarray, batch.inputs))
    keys = (None, None) if key is None else jax.random.split(key)
    of = model.encode(inputs, keys[0])
    choices = None if class_words is None else choices_of(of.class_BC, jnp.asarray(class_words))
    target_BT = jnp.asarray(batch.target_BT)
    logp_BT = model.target_logp(of, inputs.copied_BS, choices, target_BT, keys[1], batch.place_P)
    real_BT = (target_BT != PAD) * batch.weight_B[:, None]
    generation = -jnp.where(real_BT > 0, logp_BT, 0).sum() / jnp.maximum(real_BT.sum(), 1)
    if not of.class_BC.shape[1]:
        return generation_weight * generation, {"loss_generation": generation}
    labelled_B = (batch.label_B >= 0) * batch.weight_B
    logp_B = jnp.take_along_axis(jax.nn.log_softmax(of.class_BC), jnp.maximum(batch.label_B, 0)[:, None], axis=1)[:, 0]
    classification = -(logp_B * labelled_B).sum() / jnp.maximum(labelled_B.sum(), 1)
    parts = {"loss_class": classification, "loss_generation": generation}
    return classification + generation_weight * generation, parts


def _struct(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
