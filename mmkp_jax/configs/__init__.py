"""The experiments of the repository's `configs/`, by a name that holds everywhere: a wheel has those files here."""

from pathlib import Path

__path__ = [str(Path(__file__).parents[2] / "configs")]
