"""The loop: batches through the step, metrics to the log, evaluation on the way, checkpoints, and a clean stop.

A run that was stopped goes on from its last checkpoint with the same batches, and comes to the same numbers.
"""

import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mmkp_jax.assembly import Plan, load_state
from mmkp_jax.checkpoint import Best, Checkpoints
from mmkp_jax.data.forest import Forest
from mmkp_jax.data.pipeline import batches, position_of
from mmkp_jax.errors import InputError
from mmkp_jax.feeding import Training
from mmkp_jax.hf.folder import Folder
from mmkp_jax.meter import Meter
from mmkp_jax.models.definition import Params
from mmkp_jax.optim import join_params
from mmkp_jax.sharding import place_batch
from mmkp_jax.step import State


class Stopped(Exception):
    """The run was asked to stop, and is saved."""

    def __init__(self, step: int):
        super().__init__(step)
        self.step = step


Validate = Callable[[Params], dict[str, float]]
"""Parameters to their scores, by the names under which they are logged."""


def train(
    config: ConfigDict, plan: Plan, folder: Folder, training: Training, workdir: Path, validate: Validate | None
) -> tuple[int, Params]:
    """Trains to the end, or goes on to it from the work directory's last checkpoint.

    Args:
        validate: called every `config.eval_every` steps and at the end; None where that is 0.

    Returns:
        a step and its parameters: the last; where the run validates, the best by `config.best_metric`.

    Raises:
        InputError: the folder's tensors are not the model's, a checkpoint cannot be read or written, or the data are
            not those that the run began with.
        Stopped: by SIGINT or SIGTERM, when the state has been saved.
    """
    with contextlib.ExitStack() as stack:
        asked = stack.enter_context(_StopAsked())  # first, so that it still holds while the last checkpoint is written
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", keep=config.keep_checkpoints))
        data = training.feed.records.fingerprint
        step, state = _begin(plan, folder, checkpoints, data, config.data.path)
        best = stack.enter_context(Best(workdir / "best", config.best_metric, step)) if validate else None
        if step:
            print(f"going on from step {step:,} of {training.steps:,}")
        meter = stack.enter_context(Meter(config, training, workdir, step))
        feed = stack.enter_context(contextlib.closing(_feed(config, training, step)))
        stack.enter_context(jax.set_mesh(plan.mesh))
        stack.enter_context(jax.transfer_guard("disallow"))  # a hidden transfer would stall every step
        while step < training.steps:
            with meter.waiting():
                _, forest = next(feed)
            state, metrics = plan.step(state, place_batch(_micro_batches(forest, config), plan.mesh))
            step += 1
            meter.add(step, metrics, forest)
            last = step == training.steps
            if best and (last or step % config.eval_every == 0):
                with meter.pausing(), jax.transfer_guard("allow"):
                    scores = validate(join_params(state["trainable"], state["frozen"]))
                    best.offer(step, state, scores)
                meter.note(scores)
            if asked.stop or last or step % config.checkpoint_every == 0:
                meter.write()
                checkpoints.save(step, state, {**position_of(training.plans, step)._asdict(), "data": data})
            if asked.stop and not last:
                raise Stopped(step)
        params = join_params(state["trainable"], state["frozen"])
        del state  # its optimizer's part is the largest
        if not best:
            return step, params
        with jax.transfer_guard("allow"):
            restored = best.restore(plan.state)
        if restored is None:  # it was trained to its end before it was to validate
            return step, params
        print(f"best on valid: step {restored.step:,}, {restored.note['metric']} {restored.note['score']:.4f}")
        return restored.step, join_params(restored.state["trainable"], restored.state["frozen"])


def _begin(plan: Plan, folder: Folder, checkpoints: Checkpoints, data: str, path: str) -> tuple[int, State]:
    step = checkpoints.latest()
    if step is None:
        return 0, load_state(plan, folder)
    restored = checkpoints.restore(step, plan.state)
    if restored.note["data"] != data:
        mend = "prepare them as they were, or give another --workdir"
        raise InputError(f"the training posts are not those that this run saw up to step {step:,}", path, mend)
    return step, restored.state


def _feed(config: ConfigDict, training: Training, step: int):
    return batches(
        training.feed,
        training.plans,
        start=position_of(training.plans, step),
        host=jax.process_index(),
        hosts=jax.process_count(),
        workers=config.data.workers,
    )


def _micro_batches(forest: Forest, config: ConfigDict) -> Forest:
    """[rows, ...] to [accumulation steps, rows of each, ...]."""
    return Forest(*(array.reshape(config.accumulation_steps, -1, *array.shape[1:]) for array in forest))


class _StopAsked(contextlib.AbstractContextManager):
    """Turns SIGINT and SIGTERM into a wish that the loop looks for between steps; a second one is taken at once."""

    def __init__(self) -> None:
        self.stop = False

    def __enter__(self) -> "_StopAsked":
        self._before = {each: signal.signal(each, self._wish) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _wish(self, *_: Any) -> None:
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True
        print("\nstopping after this step; once more to stop at once", file=sys.stderr)
