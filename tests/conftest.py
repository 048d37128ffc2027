"""One compilation cache and one small pocket for a whole test run; and the order of the tests, long files first."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.support.paths import ONCE

CACHE = "JAX_COMPILATION_CACHE_DIR"
ROOT = Path(__file__).parent
LONG = {
    "test_main.py": 200,
    "experiment/test_hosts.py": 180,
    "decoding/test_sharded.py": 80,
    "training/test_optimizer.py": 70,
    "launch/test_processes.py": 70,
    "training/test_step.py": 60,
    "inference/test_export_in_training.py": 50,
    "experiment/test_real_posts.py": 50,
    "training/test_watchdog.py": 40,
    "hf/test_export.py": 40,
    "ops/test_splash.py": 35,
    "planning/test_plan.py": 35,
    "data/test_pipeline.py": 30,
    "training/test_posts_per_step.py": 30,
    "families/test_parity.py": 25,
    "training/test_forest_equals_alone.py": 25,
    "test_predict.py": 25,
    "decoding/test_generate.py": 20,
    "data/test_two_processes.py": 15,
    "hf/test_load.py": 15,
    "launch/test_tpu.py": 15,
}
"""Seconds of the files that take long, roughly: `pytest --durations=0` tells."""

_made: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Has this run, its workers, and every command that a test starts, share what they compile; and heed Ctrl-C.

    What runs in the background of a script ignores SIGINT, and so would all that it starts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if ONCE not in os.environ:  # workers have it from the run that starts them
        _made.append(tempfile.mkdtemp(prefix="mmkp_jax-tests-"))
        os.environ[ONCE] = _made[0]
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # tests compile more than they compute
    if CACHE not in os.environ:
        os.environ[CACHE] = os.path.join(os.environ[ONCE], "compiled")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_unconfigure(config: pytest.Config) -> None:
    for folder in _made:
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long files first, so that no worker ends alone with one of them; the order within a file is kept."""
    items.sort(key=lambda item: -LONG.get(item.path.relative_to(ROOT).as_posix(), 0))
