"""PyTorch, which the extra `parity` brings, or one named reason to skip."""

import importlib.util
import sys
from types import ModuleType

import pytest

ABSENT = "torch is not installed (extra `parity`)"


def needs_torch() -> ModuleType:
    """PyTorch; a test that asks for it is skipped where it is absent.

    On Python 3.11, which always has a wheel of it, its absence is a failure.
    """
    if sys.version_info < (3, 12) or importlib.util.find_spec("torch"):
        return importlib.import_module("torch")
    pytest.skip(ABSENT)
