"""Where the repository is, the folder of real posts and tools that may be next to it, and what a test run shares."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"

ONCE = "MMKP_JAX_TESTS_ONCE"
"""The variable that names the folder of what is made once a test run."""
