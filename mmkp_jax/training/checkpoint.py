"""Asynchronous, atomic checkpoints of the train state, and of the best step's parameters."""

import contextlib
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from mmkp_jax.errors import InputError
from mmkp_jax.models.sharding import MEMORIES
from mmkp_jax.runtime.atomic import rename_damaged
from mmkp_jax.runtime.checksums import CHECKSUMS_FILE, find_damage, has_checksums
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.hosts import is_multi_host, is_writer, true_on_all_hosts, wait_for_all
from mmkp_jax.runtime.json_files import read_object
from mmkp_jax.training.sealing import ChecksummedPath
from mmkp_jax.training.step import State

BASE = "base"
"""Key in a checkpoint's metadata: digests of the frozen parameters (`models.digest`), which it does not hold."""

NOTE = "note/metadata"
"""The file of a checkpoint with its metadata."""

RESUME_HINT = "remove its folder, to resume from an earlier one or from the beginning"


def no_checksums_message(folder: Path) -> str:
    """The warning about a checkpoint without checksums, from an earlier version of the program."""
    return f"{folder}: it has no checksums ({CHECKSUMS_FILE}), so that damage in it would not be noticed"


def metadata_of(folder: Path) -> dict[str, Any]:
    """The metadata of a checkpoint.

    Raises:
        InputError: they cannot be read.
    """
    return dict(read_object(folder / NOTE, RESUME_HINT).content)


class Restored(NamedTuple):
    """A checkpoint as it was saved."""

    step: int
    state: State
    """The state, without `frozen` where `BASE` is in the metadata."""
    metadata: dict[str, Any]


class Checkpoints:
    """The checkpoints of a work directory; an incomplete one does not count.

    Use as a context manager: leaving it waits for pending writes. A failed write, then or later, is an InputError.
    """

    def __init__(self, folder: Path, *, keep: int = 2, keep_hours: float = 0):
        """Keeps the last `keep` checkpoints and, where `keep_hours` is not 0, one every `keep_hours` hours."""
        kept = [policies.LatestN(keep), *([policies.EveryNSeconds(int(3600 * keep_hours))] if keep_hours else [])]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
            temporary_path_class=ChecksummedPath,
        )
        self._folder = folder.absolute()
        _leave_failures_to_the_caller()
        with self._writing():
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        with self._writing():
            self._manager.close()

    def latest(self) -> int | None:
        """The last step with a complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: State, metadata: dict[str, Any]) -> None:
        """Starts to write the state, with `metadata` as JSON.

        Where a part of the state is in host memory, it is written before this returns: Orbax may read it in place, and
        the next step reuses that memory.
        """
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), note=ocp.args.JsonSave(metadata))
        with self._writing(), jax.transfer_guard("allow"):
            self._manager.save(step, args=args, force=True)
        if any(leaf.sharding.memory_kind == MEMORIES["host"] for leaf in jax.tree.leaves(state)):
            self.wait()

    def delete_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, which will be computed again."""
        for later in [each for each in self._manager.all_steps() if each > step]:
            self._manager.delete(later)

    def restore(self, step: int, state: State) -> Restored:
        """The checkpoint of `step`, laid out as `state`: `jax.ShapeDtypeStruct`s with any shardings.

        Frozen parameters are read only from checkpoints of earlier versions, which hold them.

        Raises:
            InputError: it is damaged, or cannot be read.
        """
        self.verify(step)
        if BASE in metadata_of(self._folder / str(step)):
            state = {part: of for part, of in state.items() if part != "frozen"}
        args = ocp.args.Composite(state=ocp.args.StandardRestore(state), note=ocp.args.JsonRestore())
        try:
            restored = self._read(step, args)
        except Exception as error:  # damaged files end in any kind of it, Orbax's bare Exception too
            reason = " ".join(str(error).split()).partition(" See full TensorStore details")[0]
            raise InputError(f"it cannot be read ({reason})", str(self._folder / str(step)), RESUME_HINT) from error
        return Restored(step, restored["state"], restored["note"])

    def verify(self, step: int) -> None:
        """Compares the files of `step` with their checksums; the hosts share the work, and all of them call this.

        Raises:
            InputError: they differ; on every host.
        """
        folder = self._folder / str(step)
        if not true_on_all_hosts(has_checksums(folder)):
            if is_writer():
                print(for_terminal(no_checksums_message(folder)), file=sys.stderr)
            return
        found = find_damage(folder, jax.process_index(), jax.process_count())
        if not true_on_all_hosts(found is None):
            raise InputError(f"it is damaged ({found or 'another host says where'})", str(folder), RESUME_HINT)

    def _read(self, step: int, args: ocp.args.Composite) -> Any:
        if not is_multi_host():
            return self._manager.restore(step, args=args)
        here = jax.process_index()  # each host reads by itself: if one fails, the others do not wait for it
        alone = ocp.options.MultiprocessingOptions(
            primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"host-{here}"
        )
        handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
            return reader.restore(self._folder / str(step), args=args)

    def restore_latest(self, state: State) -> Restored | None:
        """The last readable checkpoint; None where there is none.

        A damaged one is reported on stderr and renamed to `STEP.damaged-…`, so that its step can be saved again.

        Raises:
            InputError: there are some, and none can be read.
        """
        failed: InputError | None = None
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            restored = None
            try:
                restored = self.restore(step, state)
            except InputError as error:
                failed = error
                print(for_terminal(str(error)), file=sys.stderr)
            if true_on_all_hosts(restored is not None):
                damaged = [each for each in self._manager.all_steps() if each > step]
                self.set_aside(damaged, f"going back to step {step:,}")
                return restored
        if steps:
            hint = "fix the cause, or start in another --workdir"
            raise failed or InputError("another host can read none of the checkpoints", str(self._folder), hint)
        return None

    def set_aside(self, steps: Sequence[int], instead: str) -> None:
        """Renames damaged checkpoints, so that their steps can be saved again, and prints what is done instead."""
        for step in steps:
            if is_writer():
                rename_damaged(self._folder / str(step))
                print(for_terminal(f"{instead}; that of step {step:,} is put aside"), file=sys.stderr)
        wait_for_all("damaged checkpoints")
        self._manager.reload()

    def metadata(self, step: int) -> dict[str, Any]:
        """The metadata saved with the state of `step`.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return self._manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore()))["note"]
        except Exception as error:  # as in `restore`
            reason = " ".join(str(error).split())
            raise InputError(
                f"its metadata cannot be read ({reason})", str(self._folder / str(step)), RESUME_HINT
            ) from error

    def wait(self) -> None:
        """Blocks until pending writes are done."""
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # the latter two from tensorstore
            reason = _reason(error)
            hint = "check free space and permissions; the run resumes from its last complete checkpoint"
            raise InputError(f"a checkpoint cannot be written ({reason})", str(self._folder), hint) from error


def _reason(error: Exception) -> str:
    """The operating system's message where tensorstore's error carries its number; else the whole message."""
    of_the_system = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(of_the_system[1])) if of_the_system else " ".join(str(error).split())


class Best:
    """The parameters of the step with the highest score over all starts of a run, in a folder of their own.

    Use as a context manager, as `Checkpoints`.
    """

    def __init__(self, folder: Path, metric: str, step: int):
        """Resumes at `step`: a best step after it is removed, as it will be computed and offered again."""
        self._metric, self._kept = metric, Checkpoints(folder, keep=1)
        self._kept.delete_after(step)
        self.score = self._score()

    def __enter__(self) -> "Best":
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.__exit__()

    def offer(self, step: int, state: State, scores: Mapping[str, float], base: Mapping[str, str]) -> None:
        """Saves the parameters that train if they beat the best score so far; they are written before this returns.

        Args:
            base: digests of the frozen parameters.

        Raises:
            InputError: they cannot be written.
        """
        if (score := scores[self._metric]) > self.score:
            self.score = score
            metadata = {"metric": self._metric, "score": score, BASE: dict(base)}
            self._kept.save(step, {"trainable": state["trainable"]}, metadata)
            self._kept.wait()  # the run's own checkpoint must not exist without it

    def restore(self, state: State) -> Restored | None:
        """The best parameters that train, laid out as those of `state` (`jax.ShapeDtypeStruct`s).

        None where none were offered, or where they are damaged: they are then renamed.
        """
        step = self._kept.latest()
        if step is None:
            return None
        restored = None
        try:
            restored = self._kept.restore(step, {part: state[part] for part in ("trainable", "frozen")})
        except InputError as error:
            print(for_terminal(str(error)), file=sys.stderr)
        if true_on_all_hosts(restored is not None):
            return restored
        self._kept.set_aside([step], "there is no longer a best step")
        return None

    def _score(self) -> float:
        """Score of the saved parameters, -inf without any; damaged ones are renamed."""
        step = self._kept.latest()
        if step is None:
            return -math.inf
        score = None
        try:
            self._kept.verify(step)
            score = self._kept.metadata(step).get("score")
        except InputError as error:
            print(for_terminal(str(error)), file=sys.stderr)
        if true_on_all_hosts(isinstance(score, int | float)):
            return float(score)
        self._kept.set_aside([step], "the best step is chosen from later steps")
        return -math.inf


def _leave_failures_to_the_caller() -> None:
    """Silences the errors of writer threads on stderr: `save` or `close` raises them."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_no_failure_of_a_writer)  # added once only
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # of Orbax's writers
    sys.unraisablehook = _no_coroutine_of_orbax


def _no_failure_of_a_writer(record: logging.LogRecord) -> bool:
    return not (record.exc_info and ("orbax" in record.pathname or "never retrieved" in record.getMessage()))


def _no_coroutine_of_orbax(failure: Any) -> None:
    """Silences the second error of an Orbax coroutine that a failed read or write left behind."""
    code = getattr(failure.object, "cr_code", None)
    of_orbax = code is not None and "/orbax/checkpoint/" in code.co_filename
    closed = isinstance(failure.exc_value, RuntimeError) and "Event loop is closed" in str(failure.exc_value)
    if not (of_orbax or closed):
        sys.__unraisablehook__(failure)
