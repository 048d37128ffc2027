"""Where a run's time goes; a step's seconds are of when it ended, whenever its figures are fetched."""

import math
import threading
import time

import jax.numpy as jnp
import pytest

from mmkp_jax.training.metrics import Goodput, StepTimes, step_seconds


@pytest.mark.parametrize(
    "before, idle_until, ended, seconds",
    [
        (10.0, 2.0, 11.5, 1.5),  # steps follow each other
        (10.0, 14.0, 15.5, 1.5),  # a checkpoint was written between them
        (10.0, 9.0, 11.5, 1.5),  # it was written while the step before was still under way
        (None, 9.0, 11.5, math.nan),  # the call of the first step compiles
    ],
)
def test_a_step_begins_when_the_one_before_it_and_what_is_no_steps_have_ended(before, idle_until, ended, seconds):
    assert step_seconds(before, idle_until, ended) == pytest.approx(seconds, nan_ok=True)


def test_two_steps_fetched_one_right_after_the_other_have_the_seconds_in_which_they_ended():
    """The last line of a run: it is written right after the line before it."""
    released, times = threading.Event(), StepTimes(Goodput())

    class Late:
        """A step's figure on a device that is at work for another 0.05 s."""

        def block_until_ready(self):
            released.wait()

    times.called(1, jnp.float32(0))
    first = times.wait_for(1)
    times.called(2, jnp.float32(1))
    while not times.has_ended(2):  # before the third is called
        time.sleep(0.001)
    threading.Timer(0.05, released.set).start()
    times.called(3, Late())
    second, last = times.wait_for(2), times.wait_for(3)
    assert math.isnan(first["seconds"]) and second["seconds"] > 0
    assert last["seconds"] >= 0.05  # though both are asked for at once


def test_what_is_no_steps_does_not_count_and_the_wait_for_data_does():
    goodput = Goodput()
    before = goodput.idle_until
    with goodput.spending("data"):
        pass
    assert goodput.idle_until == before
    with goodput.spending("evaluation"):
        pass
    assert goodput.idle_until > before


def test_where_the_time_goes(monkeypatch):
    clock = iter([0.0, 10.0, 60.0, 60.0, 80.0, 100.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    goodput = Goodput()
    with goodput.spending("evaluation"):
        pass
    with goodput.spending("data"):
        pass
    assert goodput.seconds("evaluation") == goodput.idle_until - 10 == 50
    line = "time: 30% steps, 0% compile, 20% data, 0% checkpoint, 50% evaluation, of 1.7 min"
    assert goodput.line() == line
