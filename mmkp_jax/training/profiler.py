"""Traces of steps, for TensorBoard's profiler or Perfetto."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from mmkp_jax.training.step import Metrics


class Profiler(contextlib.AbstractContextManager):
    """Traces `steps` into `folder`, each under its number."""

    def __init__(self, folder: Path, steps: range):
        self._folder, self._steps = folder, steps
        self._tracing = self._traced = False

    def __exit__(self, *_: object) -> None:
        self._stop()  # the run ended within the traced steps
        if self._steps and not self._traced:
            print(f"no trace: none of the steps {self._steps.start:,} to {self._steps.stop - 1:,} was run")

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Wraps the call of a step; the trace starts at the first one, and may show the end of the previous step."""
        if step in self._steps and not self._tracing:
            jax.profiler.start_trace(self._folder)
            self._tracing = self._traced = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step) if self._tracing else contextlib.nullcontext():
            yield

    def called(self, step: int, metrics: Metrics) -> None:
        """Takes a step's metrics after its call; the trace stops when the last traced step has ended."""
        if self._tracing and step + 1 not in self._steps:
            jax.block_until_ready(metrics)
            self._stop()

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
            print(f"trace: tensorboard --logdir {self._folder}")
