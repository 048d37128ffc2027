"""What an adapter gets and offers; an adapter is a module of this folder with a function `begin`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

PROJECT = "mmkp_jax"
"""The project, or experiment, of all runs, unless the tracker's own variable of the environment names another."""


class TrackedRun(NamedTuple):
    """What a tracker gets to know of a run when it begins, and again when it resumes."""

    id: str
    """Eight hexadecimal digits, the same in every start of the run."""
    name: str
    """The work directory's name."""
    folder: Path
    """The tracker's own folder in the work directory, for its files."""
    config: Mapping[str, Any]
    """Fields by dotted name."""


class Adapter(Protocol):
    """A run at one tracker. A method may raise anything; the tracker is then left out for the rest of this start."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to the curve of each value; steps come in order, each once."""

    def summarise(self, step: int, scores: Mapping[str, float], files: Sequence[Path]) -> None:
        """Adds the final scores, of the parameters after `step`, and the files as artifacts."""

    def close(self, *, is_complete: bool) -> None:
        """Writes everything out; the run is over (`is_complete`), or will be resumed or has failed."""
