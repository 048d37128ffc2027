"""Reports of a run: a progress bar, metrics and seconds of each step, every post's loss, and goodput."""

import contextlib
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from ml_collections import ConfigDict

from mmkp_jax.runtime.hosts import is_writer, merge_over_hosts
from mmkp_jax.runtime.progress import Progress
from mmkp_jax.training.batches import TrainingData
from mmkp_jax.training.optimizer import learning_rate
from mmkp_jax.training.post_losses import PostLosses
from mmkp_jax.training.step import Metrics, Outcomes
from mmkp_jax.training.trackers.reporting import Trackers
from mmkp_jax.training.watchdog import SkippedSteps
from mmkp_jax.training.workdir import MetricsLog

Kind = Literal["compile", "data", "checkpoint", "evaluation"]


DOING: dict[Kind, str] = {"compile": "compiling", "checkpoint": "saving", "evaluation": "evaluating"}
"""What the bar says meanwhile."""


class Goodput:
    """Goodput: seconds spent on each kind of work other than steps; the rest of the time goes to steps."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = dict.fromkeys(get_args(Kind), 0.0)
        self._told = dict(self._spent)
        self._began = time.perf_counter()
        self.idle_until = self._began
        """Time at which work other than a step or its wait for data last ended."""

    @contextlib.contextmanager
    def spending(self, kind: Kind) -> Iterator[None]:
        """Counts the time in the block as of that kind; does not nest."""
        start = time.perf_counter()
        try:
            yield
        finally:
            now = time.perf_counter()
            self._spent[kind] += now - start
            if kind != "data":
                self.idle_until = now

    def seconds(self, kind: Kind) -> float:
        """Seconds spent on that kind so far."""
        return self._spent[kind]

    def news(self) -> dict[str, float]:
        """`{kind}_seconds` spent since the last call, of the kinds other than data that took any."""
        spent = {kind: seconds - self._told[kind] for kind, seconds in self._spent.items() if kind != "data"}
        self._told = dict(self._spent)
        return {f"{kind}_seconds": seconds for kind, seconds in spent.items() if seconds}

    def line(self) -> str:
        """One line with each kind's share of the time, the steps' first."""
        total = time.perf_counter() - self._began
        shares = {"steps": total - sum(self._spent.values()), **self._spent}
        parts = ", ".join(f"{seconds / total:.0%} {kind}" for kind, seconds in shares.items())
        return f"time: {parts}, of {total / 60:.1f} min"


class StepTimes:
    """Seconds of each step, measured by a thread that waits for the steps to end.

    A step's clock starts when the step before it ends, or when the work between them (a checkpoint, an evaluation)
    ends, if that is later. So its wait for data is part of it. The first step compiles, and its seconds are unknown.
    """

    def __init__(self, goodput: Goodput):
        self._goodput, self._waited, self._before = goodput, 0.0, None
        self._called: dict[int, tuple[float, float]] = {}
        self._ended: dict[int, queue.SimpleQueue[float]] = {}
        self._to_watch: queue.SimpleQueue[tuple[queue.SimpleQueue[float], Any]] = queue.SimpleQueue()
        threading.Thread(target=self._watch, daemon=True).start()

    def called(self, step: int, results: Any) -> None:
        """Takes arrays that a step returned, right after its call."""
        waited = self._goodput.seconds("data")
        self._called[step] = waited - self._waited, self._goodput.idle_until
        self._waited = waited
        self._ended[step] = queue.SimpleQueue()
        self._to_watch.put((self._ended[step], results))

    def has_ended(self, step: int) -> bool:
        """Whether `wait_for` would return at once."""
        return not self._ended[step].empty()

    def wait_for(self, step: int) -> dict[str, float]:
        """Waits for the step's end; its `seconds` and the share spent waiting for data, NaN for the first step.

        Called once a step, in the steps' order.
        """
        ended, (waited, idle_until) = self._ended.pop(step).get(), self._called.pop(step)
        seconds = step_seconds(self._before, idle_until, ended)
        self._before = ended
        return {"seconds": seconds, "data_wait_share": min(waited / seconds, 1.0)}

    def _watch(self) -> None:
        while True:
            ended, results = self._to_watch.get()
            with contextlib.suppress(Exception):  # raised again where the results are fetched
                jax.block_until_ready(results)
            ended.put(time.perf_counter())
            del results  # frees them before the next arrive


def step_seconds(before: float | None, idle_until: float, ended: float) -> float:
    """Seconds of a step, from times of one clock; NaN where they are unknown.

    Args:
        before: the end of the previous step; None for the first.
        idle_until: the end of the last other work before its call.
        ended: the end of this step.
    """
    seconds = ended - max(before, idle_until) if before is not None else 0.0
    return seconds if seconds > 0 else float("nan")


class _Pending(NamedTuple):
    """A step that may still be running."""

    step: int
    metrics: Metrics
    outcomes: Outcomes
    flops: float
    annotations: dict[str, float]


class Meter(contextlib.AbstractContextManager):
    """Collects steps' metrics on the device and fetches them one step late, so that the device never waits.

    With several hosts, the first one writes.

    Args:
        step: the step that the run resumes from.
        row_AB: for each row of the step's batch, the index of its planned row (int64).
        peak: FLOP/s of this host's devices, or None where that is not known, and so MFU neither.
        trackers: where the metrics are sent to as well.
    """

    def __init__(
        self,
        config: ConfigDict,
        training: TrainingData,
        workdir: Path,
        step: int,
        row_AB: np.ndarray,
        peak: float | None,
        trackers: Trackers,
    ):
        self._writes = is_writer()
        self._log = MetricsLog(workdir, step, trackers) if self._writes else None
        self._losses = PostLosses(workdir, training.plans, training.has_cot_N, steps=training.steps, step=step)
        self._skipped = SkippedSteps(workdir, most=config.max_nonfinite, step=step)
        self._records, self._place_R = training.feed.records, np.argsort(row_AB, axis=None)
        self._rate = learning_rate(config.learning_rate, warmup_steps=config.warmup_steps, total_steps=training.steps)
        self._bar = Progress(training.steps, initial=step, units="steps")
        self._every = config.log_every
        self._pending: list[_Pending] = []
        self._goodput = Goodput()
        self._times = StepTimes(self._goodput)
        self._peak = peak

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)
        print(self._goodput.line())
        if self._log:
            self._log.close()

    @contextlib.contextmanager
    def spending(self, kind: Kind) -> Iterator[None]:
        """Counts the time in the block as of that kind; except for data, it is not part of a step's seconds."""
        shown = DOING.get(kind)
        with self._goodput.spending(kind), self._bar.doing(shown) if shown else contextlib.nullcontext():
            yield

    def annotate(self, values: Mapping[str, float]) -> None:
        """Adds values to the line of the step added last."""
        self._pending[-1].annotations.update(values)

    def add(self, step: int, metrics: Metrics, outcomes: Outcomes, flops: float) -> None:
        """Takes a step's results, and writes those of the steps before it.

        Args:
            flops: what this host's rows needed (`models.mfu.needed_flops`).

        Raises:
            InputError: too many steps in a row were not finite.
        """
        self._times.called(step, metrics)
        self.write()
        self._pending.append(_Pending(step, metrics, outcomes, flops, {}))
        self._bar.advance()

    def write(self) -> None:
        """Fetches and writes the pending results.

        Raises:
            InputError: too many steps in a row were not finite.
        """
        for step, metrics, outcomes, flops, annotations in self._pending:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}  # waits for the step
            line = {
                **values,
                "learning_rate": self._rate_at(step - 1 - self._skipped.steps),
                **self._times.wait_for(step),
                **self._goodput.news(),
                **annotations,
            }
            line |= {f"{each}_per_second": line[each] / line["seconds"] for each in ("posts", "tokens")}
            if self._peak:
                line["mfu"] = flops / (line["seconds"] * self._peak)
            nll_ABS, on_cot_ABS = _of_this_host(outcomes.sft_BS), _of_this_host(outcomes.on_cot_BS)
            nll_ABS[_of_this_host(outcomes.has_sft_BS) != 1] = np.nan
            self._losses.record(step, *(self._as_planned(each_ABS) for each_ABS in (nll_ABS, on_cot_ABS)))
            if self._log:
                self._log.write(step, {name: value if np.isfinite(value) else None for name, value in line.items()})
            if step % self._every == 0:
                self._bar.fields(_fields(line))
            self._skipped.record(step, values, lambda step=step: self._ids(step))
        self._pending.clear()

    def flush(self) -> None:
        """Writes everything, the posts' losses too, so that a run can resume here; on all hosts at the same step."""
        self.write()
        self._losses.merge(merge_over_hosts)
        if self._writes:
            self._losses.write()

    def _as_planned(self, value_ABS: np.ndarray) -> np.ndarray:
        return value_ABS.reshape(-1, value_ABS.shape[-1])[self._place_R]

    def _ids(self, step: int) -> list[str]:
        return [self._records[number].id for number in self._losses.posts(step).tolist()]

    def _rate_at(self, updates: int) -> float:
        with jax.transfer_guard("allow"):
            return float(self._rate(updates))


def _of_this_host(array: jax.Array) -> np.ndarray:
    """The shards on this host's devices, as float32; NaN elsewhere."""
    found = np.full(array.shape, np.nan, np.float32)
    shards = array.addressable_shards
    for shard, data in zip(shards, jax.device_get([shard.data for shard in shards]), strict=True):
        found[shard.index] = data
    return found


def _fields(line: Mapping[str, Any]) -> list[str]:
    """What the bar shows of a step, what matters most first."""
    fills = "/".join(f"{value:.0%}" for name, value in line.items() if name.startswith("fill_"))
    fields = [
        f"loss {line['loss']:.3f}",
        f"{line['cot_share']:.0%} on CoT",
        f"{line['posts_per_second']:.1f} posts/s",
        f"SFT {line['loss_sft']:.3f}",
        f"CoT {line['loss_cot']:.3f}",
        f"γ {line['gamma']:.2f}",
        f"wait {line['data_wait_share']:.0%}",
        *([f"MFU {line['mfu']:.0%}"] if "mfu" in line else []),
        f"lr {line['learning_rate']:.1e}",
        f"|g| {line['grad_norm']:.2f}",
        f"{line['tokens_per_second']:,.0f} tokens/s",
        f"fill {fills}",
    ]
    return [re.sub(r"\bnan%?", "–", field) for field in fields]  # not measured
