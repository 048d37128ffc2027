"""One compilation cache for a whole test run; and the order of the tests, the longest files first."""

import os
import shutil
import signal
import tempfile

import pytest

CACHE = "JAX_COMPILATION_CACHE_DIR"
_made: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Has this run, its workers, and every command that a test starts, share what they compile; and heed Ctrl-C.

    What runs in the background of a script ignores SIGINT, and so would all that it starts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if CACHE not in os.environ:
        _made.append(tempfile.mkdtemp(prefix="mmkp_jax-compiled-"))
        os.environ[CACHE] = _made[0]
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def pytest_unconfigure(config: pytest.Config) -> None:
    for folder in _made:
        shutil.rmtree(folder, ignore_errors=True)


LONGEST = (
    "test_main",
    "test_hosts",
    "test_processes",
    "test_sharded",
    "test_optimizer",
    "test_real_posts",
    "test_step",
)
"""Files that take half a minute or more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, so that no worker ends alone with one of them."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))  # which keeps the order within a file
