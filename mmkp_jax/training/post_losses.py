"""Each post's SFT loss at the start of its step, and its target there, saved by a run.

N posts of the run, in the order of its plan, R rows of a batch, S examples a row.
"""

import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mmkp_jax.data.plan import EpochPlan
from mmkp_jax.runtime import limits
from mmkp_jax.runtime.atomic import rename_damaged, replacing
from mmkp_jax.runtime.hosts import is_writer

LOSSES_FILE = "losses.npz"


class PostLosses:
    """`losses.npz`: `epoch_N` (int32, from 0), `post_N` (int32, the training post) and `nll_sft_N` (nats a label).

    `has_cot_N` (bool) says which posts have a chain of thought, `on_cot_N` (int8) which ones the strategy, or its
    decision, put on CoT; -1 where that is unknown. A loss is NaN where the post's row lacks its SFT target. A resumed
    run keeps what is from before its step.

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
        self._nll_sft_N, self._on_cot_N = np.full((2, last), np.nan, np.float32)
        self._merged = self._end = self._bound_R1[step * self._rows]
        if self._end and self._file.exists():
            for own_N, kept_N in zip((self._nll_sft_N, self._on_cot_N), self._before(), strict=False):
                own_N[: len(kept_N)] = kept_N

    def posts(self, step: int) -> np.ndarray:
        """Numbers of the training posts in the batch of `step` (int32)."""
        return self._post_N[slice(*self._span(step))]

    def record(self, step: int, nll_sft_RS: np.ndarray, on_cot_RS: np.ndarray) -> None:
        """Takes losses and targets (1 for CoT) of the batch of `step`, its rows as planned; NaN if not on this host."""
        start, end = self._span(step)
        bound_R1 = self._bound_R1[(step - 1) * self._rows : step * self._rows + 1]
        held_RS = np.arange(nll_sft_RS.shape[1]) < np.diff(bound_R1)[:, None]
        self._nll_sft_N[start:end], self._on_cot_N[start:end] = nll_sft_RS[held_RS], on_cot_RS[held_RS]
        self._end = end

    def merge(self, merged: Callable[[np.ndarray], np.ndarray]) -> None:
        """Merges, by `merged`, what each host recorded since the last call."""
        new = slice(self._merged, self._end)
        self._nll_sft_N[new], self._on_cot_N[new] = merged(self._nll_sft_N[new]), merged(self._on_cot_N[new])
        self._merged = self._end

    def write(self) -> None:
        """Writes the losses so far, atomically; nothing where no post had an SFT target."""
        if np.isnan(self._nll_sft_N[: self._end]).all():
            return
        arrays = {"epoch_N": self._epoch_N, "post_N": self._post_N, "nll_sft_N": self._nll_sft_N}
        arrays["has_cot_N"] = self._has_cot_N
        arrays["on_cot_N"] = np.nan_to_num(self._on_cot_N, nan=-1).astype(np.int8)
        with replacing(self._file) as out:
            np.savez(out, **{name: array[: self._end] for name, array in arrays.items()})

    def _before(self) -> list[np.ndarray]:
        """Losses, and targets if it has them, that an earlier start saved before this one's step.

        None from a damaged file, which is renamed.
        """
        try:
            with zipfile.ZipFile(self._file) as archive:
                size = sum(each.file_size for each in archive.infolist())
            if size > limits.FILE.bytes():
                raise ValueError(limits.FILE.message(size))
            with np.load(self._file, allow_pickle=False) as before:
                post_N, kept_N = (before[name][: self._end] for name in ("post_N", "nll_sft_N"))
                on_cot_N = (
                    before["on_cot_N"][: self._end] if "on_cot_N" in before else np.full(len(kept_N), -1, np.int8)
                )
            if (kept_N.dtype, on_cot_N.dtype) != (np.float32, np.int8) or len(on_cot_N) != len(kept_N):
                raise ValueError("its arrays are not a run's")
            if not np.array_equal(post_N, self._post_N[: len(kept_N)]):
                raise ValueError("it is not of this run's posts")
            return [kept_N, np.where(on_cot_N < 0, np.nan, on_cot_N)]
        except Exception as error:  # a damaged archive raises any kind
            reason = " ".join(str(error).split()) or type(error).__name__
            if is_writer():
                aside = rename_damaged(self._file)
                what = "losses before this step are unknown, and those of later steps are saved"
                print(f"{self._file}: cannot be read ({reason}); put aside as {aside.name}: {what}", file=sys.stderr)
            return []

    def _span(self, step: int) -> tuple[int, int]:
        return self._bound_R1[(step - 1) * self._rows], self._bound_R1[step * self._rows]
