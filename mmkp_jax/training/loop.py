"""The training loop: steps, metrics, validation, checkpoints and a clean stop.

A stopped run resumes from its last checkpoint with the same batches, and reaches the same numbers.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mmkp_jax.data.forest import Forest, map_arrays
from mmkp_jax.data.pipeline import Position, batches, position_of
from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import Folder
from mmkp_jax.models.definition import Params
from mmkp_jax.models.digest import digests_of
from mmkp_jax.models.freezing import join_params
from mmkp_jax.models.mfu import needed_flops, peak_flops
from mmkp_jax.models.sharding import place_batch, planned_rows
from mmkp_jax.runtime.hosts import is_multi_host, stop_requested
from mmkp_jax.runtime.interrupts import INTERRUPTED, end_at_once
from mmkp_jax.training.batches import TrainingData
from mmkp_jax.training.checkpoint import BASE, Best, Checkpoints
from mmkp_jax.training.effects import lines_without_effect
from mmkp_jax.training.feature_cache import feed_of
from mmkp_jax.training.frozen import check_frozen
from mmkp_jax.training.metrics import Meter
from mmkp_jax.training.profiler import Profiler
from mmkp_jax.training.setup import Plan, load_frozen, load_state
from mmkp_jax.training.step import State
from mmkp_jax.training.trackers.reporting import Trackers
from mmkp_jax.training.watchdog import Watchdog


class Stopped(BaseException):
    """The run was asked to stop; a `BaseException`, so that no `except Exception` catches it.

    Args:
        step: the step that was saved; None where there was nothing to save.
        by_user: stopped by Ctrl-C; else by the machine, so that it should be started again.
    """

    def __init__(self, step: int | None, by_user: bool):
        super().__init__(step, by_user)
        self.step, self.by_user = step, by_user


Validate = Callable[[Params], dict[str, float]]
"""A map from parameters to scores, by the names under which they are logged."""

Export = Callable[[int, Params], None]
"""Writes a step's parameters as a model folder."""


def train(
    config: ConfigDict,
    plan: Plan,
    folder: Folder,
    training: TrainingData,
    workdir: Path,
    validate: Validate | None,
    export: Export,
    watchdog: Watchdog,
    trackers: Trackers,
    profiled: range = range(0),
) -> tuple[int, Params]:
    """Trains to the end, from the start or from the work directory's last checkpoint.

    Args:
        validate: called every `config.eval_every` steps and at the end; None where that is 0.
        export: called at every `config.export_every`-th evaluation; never where that is 0.
        watchdog: ends the process when a step hangs.
        trackers: are sent the metrics.
        profiled: steps to trace, into `workdir/profile`.

    Returns:
        A step and its parameters: the last, or, where the run validates, the best by `config.best_metric`.

    Raises:
        InputError: the folder's tensors are not the model's, a checkpoint or features cannot be read or written, the
            data are not those that the run started with, or too many steps in a row were not finite.
        Stopped: by SIGINT, SIGTERM or a maintenance event, when the state has been saved.
    """
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(_StopSignals())  # first, so that it is active until the last checkpoint is written
        keep = {"keep": config.keep_checkpoints, "keep_hours": config.keep_hours}
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", **keep))
        data = training.feed.records.fingerprint
        step, state, base = _begin(plan, folder, checkpoints, data, config.data.path, training.steps)
        best = stack.enter_context(Best(workdir / "best", config.best_metric, step)) if validate else None
        if step:
            print(f"resuming from step {step:,} of {training.steps:,}")
        print(lines_without_effect(config, training.steps, first=step + 1, profiled=profiled), end="")
        loading = feed_of(config, plan, state, training, lambda: asked.stop)
        if loading is None:
            raise Stopped(step or None, asked.by_user)
        training = training._replace(feed=loading)
        row_AB = planned_rows(plan.mesh, config.accumulation_steps, config.global_batch_size)
        peak = peak_flops(jax.local_devices(), config.compute_dtype)
        meter = stack.enter_context(Meter(config, training, workdir, step, row_AB, peak, trackers))
        profile = workdir / "profile" / f"host-{jax.process_index()}"  # one folder per process, also on one machine
        profiler = stack.enter_context(Profiler(profile, profiled))
        feed = stack.enter_context(contextlib.closing(_feed(config, training, step)))
        stack.enter_context(jax.set_mesh(plan.mesh))
        stack.enter_context(jax.transfer_guard("disallow"))  # a hidden transfer would stall every step
        stack.enter_context(watchdog.counting("step"))
        first = step + 1
        while step < training.steps:
            with meter.spending("data"):
                _, forest = next(feed)
            batch = place_batch(_micro_batches(forest, config), plan.mesh)
            step += 1
            with meter.spending("compile") if step == first else contextlib.nullcontext(), profiler.around(step):
                state, metrics, outcomes = plan.step(state, batch)
            profiler.called(step, metrics)
            flops = needed_flops(plan.definition, config.freeze, forest) if peak else 0.0
            meter.add(step, metrics, outcomes, flops)
            watchdog.beat()
            last, stop = step == training.steps, asked.stop or stop_requested(step)
            if best and (last or step % config.eval_every == 0):
                with meter.spending("evaluation"), watchdog.pausing(), jax.transfer_guard("allow"):
                    scores = validate(join_params(state["trainable"], state["frozen"]))
                    best.offer(step, state, scores, base)
                    if config.export_every and step % (config.export_every * config.eval_every) == 0:
                        export(step, join_params(state["trainable"], state["frozen"]))
                meter.annotate(scores)
            if stop or last or step % config.checkpoint_every == 0:
                meter.flush()
                with meter.spending("checkpoint"), watchdog.pausing():
                    kept = {part: of for part, of in state.items() if part != "frozen"}
                    checkpoints.save(step, kept, {"data": data, BASE: base})
            if stop:
                raise Stopped(step, asked.by_user)
        frozen = state["frozen"]
        params = join_params(state["trainable"], frozen)
        del state  # frees the optimizer state, the largest part
        if not best:
            return step, params
        with jax.transfer_guard("allow"):
            restored = best.restore(plan.state)
        if restored is None:  # damaged, or the run was trained to its end before it validated
            return step, params
        print(f"best on valid: step {restored.step:,}, {restored.metadata['metric']} {restored.metadata['score']:.4f}")
        return restored.step, join_params(restored.state["trainable"], frozen)


def _begin(
    plan: Plan, folder: Folder, checkpoints: Checkpoints, data: str, path: str, steps: int
) -> tuple[int, State, dict[str, str]]:
    """The step to go on from, the state there, and the digests of its frozen parameters."""
    restored = checkpoints.restore_latest(plan.state)
    if restored is None:
        state = load_state(plan, folder)
        return 0, state, digests_of(state["frozen"])
    step = restored.step
    if step > steps:
        what = f"the run is at step {step:,} already, and its config now ends at step {steps:,}"
        raise InputError(what, "config.total_steps", "give more steps, or epochs")
    if restored.metadata["data"] != data:
        hint = "prepare the same posts again, or give another --workdir"
        raise InputError(f"the training posts are not those that this run used up to step {step:,}", path, hint)
    state = restored.state if "frozen" in restored.state else restored.state | {"frozen": load_frozen(plan, folder)}
    base = digests_of(state["frozen"])
    check_frozen(base, restored.metadata.get(BASE, base), folder)
    return step, state, base


def _feed(config: ConfigDict, training: TrainingData, step: int) -> Iterator[tuple[Position, Forest]]:
    return batches(
        training.feed,
        training.plans,
        start=position_of(training.plans, step),
        host=jax.process_index(),
        hosts=jax.process_count(),
        workers=config.data.workers,
    )


def _micro_batches(forest: Forest, config: ConfigDict) -> Forest:
    """The batch, reshaped from [rows, ...] to [accumulation steps, rows of each, ...]."""
    return map_arrays(lambda array: array.reshape(config.accumulation_steps, -1, *array.shape[1:]), forest)


class _StopSignals(contextlib.AbstractContextManager):
    """Turns SIGINT and SIGTERM into a flag that the loop checks between steps; a second SIGINT stops at once.

    With several hosts, JAX passes SIGTERM on to all of them (`hosts.stop_requested`); SIGINT is turned into SIGTERM.
    """

    def __init__(self) -> None:
        self.stop = self.by_user = False
        self._multi_host = is_multi_host()

    def __enter__(self) -> "_StopSignals":
        kinds = (signal.SIGINT,) if self._multi_host else (signal.SIGINT, signal.SIGTERM)
        self._before = {each: signal.signal(each, self._on_signal) for each in kinds}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _on_signal(self, kind: int, _: Any) -> None:
        if kind == signal.SIGINT and (self.stop or self.by_user):
            end_at_once("stopped at once; started again, the run resumes from its last checkpoint", INTERRUPTED)
        self.by_user = kind == signal.SIGINT and not self.stop
        print("\nstopping after this step; once more to stop at once", file=sys.stderr)
        if self._multi_host:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.stop = True
