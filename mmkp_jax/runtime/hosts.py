"""Several hosts as one job: how they join, which of them writes, what they must agree on, and when all stop.

On a single host every function here does nothing, or returns that host's own value.
"""

import contextlib
import functools
import hashlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax._src.clusters import ClusterEnv  # no public name gives this process's number and job
from jax.experimental import multihost_utils
from tqdm import tqdm

from mmkp_jax.errors import LOST, InputError, LostError
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.meeting import ENDING, GRACE_SECONDS, JOIN_SECONDS, Meeting, end_as_lost, meet
from mmkp_jax.runtime.program import command_line

FOREVER = 7 * 24 * 3600
"""Timeout in seconds of JAX's own service, which `Meeting` replaces."""

_meeting: Meeting | None = None


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    seconds: float = JOIN_SECONDS,
) -> None:
    """Joins the other hosts: those that the arguments name, else those of a TPU slice, Slurm or Open MPI.

    Hosts other than the first print nothing but errors. From here on, a lost host ends this process (76).

    Args:
        coordinator: `HOST:PORT` of the first process.
        processes: the number of processes.
        process: the number of this one, from 0.
        seconds: how long to wait for the others.

    Raises:
        InputError: only some of the arguments are given, they do not fit each other, or the port is in use.
        LostError: the others did not join in time.
    """
    global _meeting
    given = (coordinator, processes, process)
    if any(each is not None for each in given) and None in given:
        what = "a job of several processes needs all of --coordinator, --num_processes and --process_id"
        raise InputError(what, command_line("main"), "give all three, or none")
    where, size, host, devices = _place_in_job(*given, seconds)
    if where is None:
        return  # no cluster: a single host
    address, _, port = where.rpartition(":")
    in_range = size is not None and host is not None and 0 <= host < size
    if not (in_range and address and port.isdecimal() and 0 < int(port) < 1 << 16):
        what = f"process {host} of {size} cannot meet the others at {where}"
        raise InputError(what, "--coordinator", "give HOST:PORT, and each of N processes a number below N")
    meeting = meet(where, host, size, seconds) if size > 1 else None
    try:
        jax.distributed.initialize(
            *(meeting.address if meeting else where, size, host, devices),
            cluster_detection_method="deactivate",
            coordinator_bind_address=meeting.address if meeting else None,
            heartbeat_timeout_seconds=FOREVER,
            shutdown_timeout_seconds=FOREVER,
        )
    except RuntimeError as error:
        if not meeting and "must be called before" in str(error):
            return  # a single-host program that has used JAX already
        if meeting and (loss := meeting.lost_within(GRACE_SECONDS)):
            end_as_lost(loss)
        reason = " ".join(str(error).split())
        raise InputError(f"the hosts cannot meet ({reason})", where, "start all of them again") from error
    _meeting = meeting
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # gloo confuses the messages of two concurrent programs
    if not is_writer():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
        tqdm.__init__ = functools.partialmethod(tqdm.__init__, disable=True)


def _place_in_job(
    coordinator: str | None, processes: int | None, process: int | None, seconds: float
) -> tuple[str | None, int | None, int | None, Sequence[int] | None]:
    """What `jax.distributed.initialize` detects: coordinator address, number of processes, own number, own devices."""
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    devices = [int(each) for each in os.environ.get("JAX_LOCAL_DEVICE_IDS", "").split(",") if each] or None
    try:
        return ClusterEnv.auto_detect_unset_distributed_params(
            coordinator, processes, process, devices, None, int(seconds)
        )
    except RuntimeError as error:  # the first host's name did not resolve in time
        raise LostError(f"the hosts of this job did not meet ({error}); start all of them again") from error


def is_writer() -> bool:
    """Whether this host writes the job's files."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether the job has more than one host."""
    return jax.process_count() > 1


def wait_for_all(where: str) -> None:
    """Blocks until every host has reached `where`."""
    if several():
        multihost_utils.sync_global_devices(where)


def everywhere(here: bool) -> bool:
    """Whether `here` is true on every host."""
    return bool(np.all(multihost_utils.process_allgather(np.asarray(here)))) if several() else here


def merged(known: np.ndarray) -> np.ndarray:
    """An array merged over hosts, each of which has NaN for the values of the others."""
    if not several():
        return known
    first, *others = multihost_utils.process_allgather(known)
    return functools.reduce(lambda found, other: np.where(np.isnan(found), other, found), others, first)


def on_writer(work: Callable[[], object]) -> None:
    """Runs `work` on the first host; the others wait for it.

    Raises:
        InputError: `work` raised one; on every host, so that all of them end.
    """
    error = None
    if is_writer():
        try:
            work()
        except InputError as raised:
            error = raised
    if error and not several():
        raise error
    if not everywhere(error is None):
        raise error or InputError(
            "the first host of the job could not continue", "this host", "see the message of the first host"
        )


def check_agreement(facts: Mapping[str, str]) -> None:
    """Checks that facts, by name, are the same on all hosts.

    Raises:
        InputError: a host's fact differs from the first host's; on every host, so that all of them end.
    """
    if not several():
        return
    digests = [hashlib.sha256(fact.encode()).digest() for fact in facts.values()]
    found_HF = np.asarray(multihost_utils.process_allgather(np.frombuffer(b"".join(digests), np.uint8)))
    same_HF = (found_HF == found_HF[0]).reshape(len(found_HF), len(facts), -1).all(axis=-1)
    other = [(host, np.flatnonzero(~same_F)) for host, same_F in enumerate(same_HF) if not same_F.all()]
    if other:
        differences = "; ".join(
            f"host {host} has another {', '.join(list(facts)[n] for n in which)}" for host, which in other
        )
        raise InputError(differences, "the hosts of this job", "give all of them the same code, config and data")


def stop_requested(step: int) -> bool:
    """Whether a host was sent SIGTERM; true on all hosts at the same step, which each has to call it for."""
    return several() and multihost_utils.reached_preemption_sync_point(step)


LOST_HOST = re.compile(
    r"gloo|coordination service|another task died|connection (reset|closed)|unavailable:|remote process exited",
    re.IGNORECASE,
)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Wraps a job of several hosts, so that they end together; a host that fails exits at once, and then the others.

    An error caused by the loss of another host ends with one line on that loss, and the status `LOST`.
    """
    try:
        yield
    except Exception as error:
        if not several():
            raise
        is_complete = isinstance(error, InputError | LostError) and not LOST_HOST.search(_words(error))
        if not is_complete and (loss := _loss(error)):
            end_as_lost(loss)
        with ENDING:
            if isinstance(error, InputError | LostError):
                print(for_terminal(str(error)), file=sys.stderr)
            else:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(LOST if isinstance(error, LostError) else 2 if isinstance(error, InputError) else 1)
    else:
        if _meeting:
            _meeting.leave(jax.distributed.shutdown)


def _words(error: BaseException | None) -> str:
    """The messages of an error and of its causes."""
    return f"{error} {_words(error.__cause__ or error.__context__)}" if error else ""


def _loss(error: Exception) -> str | None:
    """The loss of a host that caused the error: as the meeting reports it, or else from the error's own message."""
    if loss := _meeting and _meeting.lost_within(GRACE_SECONDS):
        return loss
    return str(error).splitlines()[0] if LOST_HOST.search(_words(error)) else None
