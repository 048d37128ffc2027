"""One compilation cache for a whole test run; and the order of the tests, files with slow ones first."""

import collections
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts slow files first, so that no worker ends alone with one of them."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # which keeps the order within a file, and of files with as many
