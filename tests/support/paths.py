"""Where the repository is, and the folder of real posts and tools that may be next to it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
