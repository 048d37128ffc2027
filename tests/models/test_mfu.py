"""MFU: known peaks, the work that rows need, and the line that a run writes."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.forest import map_arrays
from mmkp_jax.data.plan import plan_epoch
from mmkp_jax.models.mfu import needed_flops, peak_flops
from mmkp_jax.training.metrics import Meter
from mmkp_jax.training.step import Outcomes
from mmkp_jax.training.trackers.reporting import Trackers
from tests.planning.test_flops import DEFINITION, FOREST, FROZEN, by_hand
from tests.support.trees import row_of

H100, CPU = SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3"), SimpleNamespace(device_kind="cpu")


def test_the_peak_is_known_of_listed_devices_and_for_bfloat16_alone():
    assert peak_flops([H100] * 8, "bfloat16") == 8 * 989e12
    assert peak_flops([H100, CPU], "bfloat16") is None
    assert peak_flops([H100], "float32") is None


def test_needed_work_is_that_of_the_rows_however_they_are_batched():
    rows = len(FOREST.token_BT)
    each = [needed_flops(DEFINITION, FROZEN, map_arrays(lambda a, r=r: a[r : r + 1], FOREST)) for r in range(rows)]
    together = needed_flops(DEFINITION, FROZEN, map_arrays(lambda a: a[None], FOREST))
    assert together == pytest.approx(sum(each), rel=1e-12)
    hand = by_hand()
    assert together == pytest.approx(3 * sum(hand.values()) - 2 * hand["tower"], rel=1e-12)  # the tower is frozen


@pytest.mark.parametrize("peak", [2e12, None])
def test_mfu_is_a_steps_work_over_its_seconds_and_the_peak(tmp_path, peak):
    plan = plan_epoch(np.ones((6, 5), np.int64), row_of(1, 1, 1, 1, 1), seed=0, epoch=0, batch_rows=1)
    training = SimpleNamespace(plans=[plan], has_cot_N=np.zeros(6, bool), steps=6, feed=SimpleNamespace(records=[]))
    settings = dict(max_nonfinite=0, learning_rate=1e-3, warmup_steps=0, log_every=1)
    loss_ABS = jnp.zeros((1, 1, 1))
    names = ["loss", "loss_sft", "loss_cot", "cot_share", "gamma", "grad_norm", "posts", "tokens", "skipped"]
    settings, row_AB, trackers = SimpleNamespace(**settings), np.zeros((1, 1), np.int64), Trackers((), tmp_path)
    with Meter(settings, training, tmp_path, 0, row_AB, peak, trackers) as meter:
        for step in range(1, 4):
            metrics = dict.fromkeys(names, jnp.float32(0))
            meter.add(step, metrics, Outcomes(*[loss_ABS] * len(Outcomes._fields)), flops=3e9)
        meter.write()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all(("mfu" in line) == bool(peak) for line in lines)
    if peak:
        assert [line["mfu"] for line in lines[1:]] == [
            pytest.approx(3e9 / line["seconds"] / peak) for line in lines[1:]
        ]
