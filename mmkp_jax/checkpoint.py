"""Checkpoints: the train state and the data position together, asynchronous and atomic."""

from pathlib import Path
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from mmkp_jax.step import State


class Restored(NamedTuple):
    """A checkpoint as it was saved."""

    step: int
    state: State
    position: dict[str, Any]


class Checkpoints:
    """The checkpoints of a work directory; one that was cut off while being written does not count.

    Use as a context manager: leaving it waits for what is still being written.
    """

    def __init__(self, folder: Path, *, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The last step with a whole checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: State, position: dict[str, Any]) -> None:
        """Starts to write; `position` is what the data pipeline needs to go on, as JSON."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), position=ocp.args.JsonSave(position))
        self._manager.save(step, args=args)

    def restore(self, step: int, state: State) -> Restored:
        """The checkpoint of `step`, laid out as `state`: `jax.ShapeDtypeStruct`s with any shardings."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(state), position=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        return Restored(step, restored["state"], restored["position"])
