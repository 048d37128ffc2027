"""tokamax, which the extra `tokamax` brings, or one named reason to skip."""

import importlib.util

import pytest

ABSENT = "tokamax is not installed (extra `tokamax`)"

INSTALLED = importlib.util.find_spec("tokamax") is not None

needs_tokamax = pytest.mark.skipif(not INSTALLED, reason=ABSENT)
"""The mark of a test that computes with it."""
