"""What a run tells of itself: a progress bar, a line of metrics a step, and where the time goes."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from mmkp_jax.data.forest import Forest
from mmkp_jax.feeding import Training
from mmkp_jax.optim import learning_rate
from mmkp_jax.step import Metrics
from mmkp_jax.workdir import MetricsLog


class Meter(contextlib.AbstractContextManager):
    """Collects steps' metrics on the device and fetches them one step late, so that the device never waits."""

    def __init__(self, config: ConfigDict, training: Training, workdir: Path, step: int):
        self._log = MetricsLog(workdir, step)
        self._rate = learning_rate(config.learning_rate, warmup_steps=config.warmup_steps, total_steps=training.steps)
        self._bar = tqdm(total=training.steps, initial=step, unit="step", dynamic_ncols=True, smoothing=0.1)
        self._every = config.log_every
        self._pending: list[tuple[int, Metrics, dict[str, float]]] = []
        self._waited, self._last = 0.0, time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._log.close()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Times a wait for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Leaves out of all times what is done meanwhile."""
        start = time.perf_counter()
        yield
        self._last += time.perf_counter() - start

    def note(self, values: Mapping[str, float]) -> None:
        """Adds to the line of the step that was added last."""
        self._pending[-1][2].update(values)

    def add(self, step: int, metrics: Metrics, forest: Forest) -> None:
        """Takes a step's metrics, and writes those of the steps before it."""
        now = time.perf_counter()
        host = {
            "seconds": now - self._last,
            "data_wait_share": self._waited / max(now - self._last, 1e-9),
            "tokens": float((forest.segment_BT > 0).sum()),
            "fill_tokens": float((forest.segment_BT > 0).mean()),
            "fill_patches": _share(forest.image_BP > 0),
            "fill_windows": _share(forest.window_BW > 0),
        }
        self._waited, self._last = 0.0, now
        self.write()
        self._pending.append((step, metrics, host))
        self._bar.update()

    def write(self) -> None:
        """Fetches and writes what is pending."""
        for step, metrics, host in self._pending:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            line = {**values, "learning_rate": float(self._rate_at(step)), **host}
            line |= {f"{each}_per_second": line[each] / line["seconds"] for each in ("posts", "tokens")}
            self._log.write(step, {name: value if np.isfinite(value) else None for name, value in line.items()})
            if step % self._every == 0:
                self._bar.set_postfix_str(_summary(line))
        self._pending.clear()

    def _rate_at(self, step: int) -> float:
        with jax.transfer_guard("allow"):
            return float(self._rate(step - 1))


def _share(used: np.ndarray) -> float:
    return float(used.mean()) if used.size else 0.0


def _summary(line: dict[str, Any]) -> str:
    fills = "/".join(f"{line[f'fill_{each}']:.0%}" for each in ("tokens", "patches", "windows"))
    return (
        f"loss {line['loss']:.3f} (sft {line['loss_sft']:.3f}, cot {line['loss_cot']:.3f}), "
        f"{line['cot_share']:.0%} on cot, γ {line['gamma']:.2f}, lr {line['learning_rate']:.1e}, "
        f"|g| {line['grad_norm']:.2f}, "
        f"{line['posts_per_second']:.1f} posts/s, {line['tokens_per_second']:,.0f} tokens/s, "
        f"fill {fills}, wait {line['data_wait_share']:.0%}"
    )
