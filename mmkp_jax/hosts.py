"""Several hosts as one job: how they meet, which of them writes, what they must agree on, and when all stop.

On one host every function here does nothing, or answers for it alone.
"""

import contextlib
import functools
import hashlib
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from mmkp_jax.errors import LOST, InputError, LostError

HEARTBEAT_SECONDS = 30
"""A host that was not heard of for so long ends the job on all."""


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins the other hosts: those that the arguments name, else those of a TPU slice, Slurm or Open MPI.

    Hosts other than the first print nothing but errors.

    Args:
        coordinator: `HOST:PORT` of the first process.
        processes: how many there are.
        process: which of them this is, from 0.

    Raises:
        InputError: only some of the arguments are given, or the others cannot be reached.
    """
    given = (coordinator, processes, process)
    if any(each is not None for each in given) and None in given:
        what = "a job of several processes needs all of --coordinator, --num_processes and --process_id"
        raise InputError(what, "python -m mmkp_jax.main", "give all three, or none")
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except ValueError as error:
        if coordinator is None and "should be defined" in str(error):
            return  # no cluster: a host by itself
        raise InputError(f"the hosts cannot meet ({error})", str(coordinator), "see to the three flags") from error
    except RuntimeError as error:
        if coordinator is None and "must be called before" in str(error):
            return  # a program that has used JAX already, by itself
        reason = " ".join(str(error).split())
        raise InputError(f"the hosts cannot meet ({reason})", str(coordinator), "start all of them again") from error
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # gloo mixes up the messages of two programs at once
    if not is_writer():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
        tqdm.__init__ = functools.partialmethod(tqdm.__init__, disable=True)


def is_writer() -> bool:
    """Whether this host writes what is written once a job."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether the job has more than one host."""
    return jax.process_count() > 1


def wait_for_all(where: str) -> None:
    """Until every host is at the same place."""
    if several():
        multihost_utils.sync_global_devices(where)


def everywhere(here: bool) -> bool:
    """Whether it holds on every host."""
    return bool(np.all(multihost_utils.process_allgather(np.asarray(here)))) if several() else here


def merged(known: np.ndarray) -> np.ndarray:
    """An array of which each host knows some numbers, and has NaN in place of the others."""
    if not several():
        return known
    first, *others = multihost_utils.process_allgather(known)
    return functools.reduce(lambda found, other: np.where(np.isnan(found), other, found), others, first)


def on_writer(work: Callable[[], object]) -> None:
    """Does what is done once a job; the others wait for it.

    Raises:
        InputError: it raised one; on every host, so that all of them end.
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
        raise error or InputError("the first host of the job could not go on", "this host", "see what that one says")


def check_agreement(facts: Mapping[str, str]) -> None:
    """What must be the same on all hosts, by its name.

    Raises:
        InputError: a host knows it otherwise than the first; on every host, so that all of them end.
    """
    if not several():
        return
    digests = [hashlib.sha256(fact.encode()).digest() for fact in facts.values()]
    found_HF = np.asarray(multihost_utils.process_allgather(np.frombuffer(b"".join(digests), np.uint8)))
    same_HF = (found_HF == found_HF[0]).reshape(len(found_HF), len(facts), -1).all(axis=-1)
    other = [(host, np.flatnonzero(~same_F)) for host, same_F in enumerate(same_HF) if not same_F.all()]
    if other:
        told = "; ".join(f"host {host} has another {', '.join(list(facts)[n] for n in which)}" for host, which in other)
        raise InputError(told, "the hosts of this job", "give all of them the same code, config and data")


def asked_to_stop(step: int) -> bool:
    """Whether a host was sent SIGTERM: for all of them at the same step, once each has asked at it."""
    return several() and multihost_utils.reached_preemption_sync_point(step)


LOST_HOST = re.compile(
    r"gloo|coordination service|another task died|connection (reset|closed)|unavailable:|remote process exited",
    re.IGNORECASE,
)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Around a job of several hosts: when this host fails it leaves at once, so that the others notice."""
    try:
        yield
    except Exception as error:
        if not several():
            raise
        if isinstance(error, InputError):
            print(error, file=sys.stderr)
            status = 2
        elif isinstance(error, LostError):
            print(error, file=sys.stderr)
            status = LOST
        elif LOST_HOST.search(str(error)):
            told = "another host of this job is lost; the run goes on from its last checkpoint when it is started again"
            print(f"\n{told} ({str(error).splitlines()[0]})", file=sys.stderr)
            status = LOST
        else:
            traceback.print_exc()
            status = 1
        sys.stderr.flush()
        if is_writer():
            time.sleep(1)  # the others must not lose it before they have told their own line
        os._exit(status)  # an orderly end would wait for the others, for minutes
