"""PyTorch, which the extra `parity` brings, or one named reason to skip."""

import importlib
import sys
from types import ModuleType

import pytest

ABSENT = "torch is not installed (extra `parity`)"


def needs_torch() -> ModuleType:
    """PyTorch; without it, skips the test, or the whole module at import.

    Python 3.11 always has it, so its absence there is a failure; newer ones may have no wheel of it for their machine.
    """
    if sys.version_info < (3, 12) or importlib.util.find_spec("torch"):
        return importlib.import_module("torch")
    pytest.skip(ABSENT, allow_module_level=True)
