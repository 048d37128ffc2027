"""One compilation cache and one small pocket for a test run; and the order of the tests, the longest files first."""

import os
import shutil
import signal
import tempfile
from importlib.metadata import version

import pytest

from tests.support.paths import ONCE

CACHE = "JAX_COMPILATION_CACHE_DIR"
_made: list[str] = []

FAST_TO_COMPILE = "--xla_backend_optimization_level=0"
"""Flags of XLA for the default tier, whose tests compile more than they compute."""
if version("jaxlib").startswith("0.10."):  # a quarter of the processor time again; later ones have no other emitters
    FAST_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config: pytest.Config) -> None:
    """Has this run, its workers, and every command that a test starts, share what they compile; and heed Ctrl-C.

    What runs in the background of a script ignores SIGINT, and so would all that it starts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "nightly" not in config.option.markexpr.replace("not nightly", ""):  # which compiles as users do
        os.environ.setdefault("XLA_FLAGS", FAST_TO_COMPILE)
    if ONCE not in os.environ:  # workers have it from the run that starts them
        _made.append(tempfile.mkdtemp(prefix="mmkp_jax-tests-"))
        os.environ[ONCE] = _made[0]
    if CACHE not in os.environ:
        os.environ[CACHE] = os.path.join(os.environ[ONCE], "compiled")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_unconfigure(config: pytest.Config) -> None:
    for folder in _made:
        shutil.rmtree(folder, ignore_errors=True)


LONGEST = (
    "test_main",
    "test_hosts",
    "test_strategies_run",
    "test_pocket_run",
    "test_processes",
    "test_sharded",
    "test_optimizer",
    "test_real_posts",
    "test_step",
    "test_export",
    "test_splash",
    "test_plan",
    "test_posts_per_step",
    "test_forest_equals_alone",
    "test_variants",
    "test_generate",
    "test_sharding",
    "test_wheel",
    "test_pipeline",
    "test_watchdog",
    "test_attention",
)
"""Files that take half a minute or more, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, so that no worker ends alone with one of them."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))  # which keeps the order within a file
