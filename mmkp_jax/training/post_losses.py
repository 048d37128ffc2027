"""Each post's SFT loss at the start of its step, saved by a run: the values that γ is chosen from.

N posts of the run, in the order of its plan, R rows of a batch, S examples a row.
"""

import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mmkp_jax.data.plan import EpochPlan
from mmkp_jax.runtime import limits
from mmkp_jax.runtime.atomic import replacing, set_aside
from mmkp_jax.runtime.hosts import is_writer

LOSSES_FILE = "losses.npz"


class PostLosses:
    """`losses.npz`: `epoch_N` (int32, from 0), `post_N` (int32, the training post) and `nll_sft_N` (nats a label).

    `has_cot_N` (bool) says which posts have a chain of thought. A loss is NaN where the post's row lacks its SFT
    target. A resumed run keeps the losses before its step.

    Args:
        has_cot: whether each training post, by its number, has a chain of thought (bool).
    """

    def __init__(self, workdir: Path, plans: Sequence[EpochPlan], has_cot: np.ndarray, *, steps: int, step: int):
        self._file = workdir / LOSSES_FILE
        self._rows = plans[0].batch_rows
        starts = np.cumsum([0, *(len(plan.post_N) for plan in plans)])
        ends = [start + plan.bound_R1[1:] for start, plan in zip(starts, plans, strict=False)]
        self._bound_R1 = np.concatenate([[0], *ends])[: steps * self._rows + 1]
        last = self._bound_R1[-1]
        self._epoch_N = np.repeat(np.arange(len(plans), dtype=np.int32), np.diff(starts))[:last]
        self._post_N = np.concatenate([plan.post_N for plan in plans])[:last]
        self._has_cot_N = has_cot[self._post_N]
        self._nll_sft_N = np.full(last, np.nan, np.float32)
        self._merged = self._end = self._bound_R1[step * self._rows]
        if self._end and self._file.exists():
            kept = self._before()
            self._nll_sft_N[: len(kept)] = kept

    def posts(self, step: int) -> np.ndarray:
        """Numbers of the training posts in the batch of `step` (int32)."""
        return self._post_N[slice(*self._span(step))]

    def record(self, step: int, nll_sft_RS: np.ndarray) -> None:
        """Takes the losses of the batch of `step`, its rows as planned; NaN where this host has none."""
        start, end = self._span(step)
        bound_R1 = self._bound_R1[(step - 1) * self._rows : step * self._rows + 1]
        held_RS = np.arange(nll_sft_RS.shape[1]) < np.diff(bound_R1)[:, None]
        self._nll_sft_N[start:end] = nll_sft_RS[held_RS]
        self._end = end

    def merge(self, merged: Callable[[np.ndarray], np.ndarray]) -> None:
        """Merges, by `merged`, what each host recorded since the last call."""
        new = slice(self._merged, self._end)
        self._nll_sft_N[new] = merged(self._nll_sft_N[new])
        self._merged = self._end

    def write(self) -> None:
        """Writes the losses so far, atomically; nothing where no post had an SFT target."""
        if np.isnan(self._nll_sft_N[: self._end]).all():
            return
        arrays = {"epoch_N": self._epoch_N, "post_N": self._post_N, "nll_sft_N": self._nll_sft_N}
        arrays["has_cot_N"] = self._has_cot_N
        with replacing(self._file) as out:
            np.savez(out, **{name: array[: self._end] for name, array in arrays.items()})

    def _before(self) -> np.ndarray:
        """Losses that an earlier start saved before this one's step; none from a damaged file, which is renamed."""
        try:
            with zipfile.ZipFile(self._file) as archive:
                size = sum(each.file_size for each in archive.infolist())
            if size > limits.FILE.bytes():
                raise ValueError(limits.FILE.message(size))
            with np.load(self._file, allow_pickle=False) as before:
                post_N, kept_N = (before[name][: self._end] for name in ("post_N", "nll_sft_N"))
            if kept_N.dtype != np.float32 or not np.array_equal(post_N, self._post_N[: len(kept_N)]):
                raise ValueError("it is not of this run's posts")
            return kept_N
        except Exception as error:  # a damaged archive raises any kind
            reason = " ".join(str(error).split()) or type(error).__name__
            if is_writer():
                aside = set_aside(self._file)
                what = "losses before this step are unknown, and those of later steps are saved"
                print(f"{self._file}: cannot be read ({reason}); put aside as {aside.name}: {what}", file=sys.stderr)
            return np.empty(0, np.float32)

    def _span(self, step: int) -> tuple[int, int]:
        return self._bound_R1[(step - 1) * self._rows], self._bound_R1[step * self._rows]
