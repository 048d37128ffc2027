"""A lock that gives a folder one writer, on one host or on several that share the folder.

`run.lock` names the owner and is written once per claim; `run.beat` changes every few seconds while the owner lives. An
owner on this host is looked up among its processes; one on another host counts as dead when its `run.beat` has not
changed for a while *as watched from here*: clocks are never compared.
"""

import contextlib
import errno
import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mmkp_jax.errors import LOST, BusyError, InputError
from mmkp_jax.runtime.atomic import part_of, write_json
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.json_files import read_object

LOCK, BEAT = "run.lock", "run.beat"
LOCK_FILES = frozenset({LOCK, BEAT, part_of(Path(LOCK)).name, part_of(Path(BEAT)).name})

BEAT_SECONDS = 5.0
LEAST_BEATS = 3
"""Number of missed beats below which an owner never counts as dead."""

SETTLE_SECONDS = 1.0
"""Wait after taking over a lock: of two processes that do so at once, the file then names the later one."""


class Owner(NamedTuple):
    """A process, with an identity that is unique over hosts and time."""

    token: str
    """Unique token of this claim."""
    host: str
    """Identity of the machine's boot and of its process-id namespace (a container has its own)."""
    name: str
    """The machine's name, for messages."""
    pid: int
    started: str
    """Start time of the process, as process ids are reused."""


class Lock(contextlib.AbstractContextManager):
    """Holds a folder from `acquire` until the block is left.

    Args:
        seconds: longest wait for an owner on another host. It counts as dead after half of that without a
            change, though never before it missed three beats.
        lost: called, on a thread, when another process has taken over the folder; by default this process prints that,
            writes nothing more and exits with 76.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        *,
        beat: float = BEAT_SECONDS,
        settle: float = SETTLE_SECONDS,
        lost: Callable[[str], object] | None = None,
    ):
        self._folder, self._seconds, self._beat, self._settle = folder, seconds, beat, settle
        self._lost = lost or _end
        self._owner = this_process()
        self._beats = 0
        self._over, self._thread = threading.Event(), None

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None
        with contextlib.suppress(OSError, InputError):
            if _owner_of(self._folder) == self._owner:
                (self._folder / BEAT).unlink(missing_ok=True)
                (self._folder / LOCK).unlink()

    def acquire(self) -> None:
        """Locks the folder, which is created if needed; prints a line if it is taken over from a dead owner.

        Raises:
            InputError: a process on this host holds it.
            BusyError: a process on another host still holds it after `seconds`.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        while not self._create():
            owner = _try_owner(self._folder)
            if owner is None:  # it may be half-written
                time.sleep(self._settle)
                owner = _try_owner(self._folder)
            if owner is not None and owner.host == self._owner.host:
                if is_alive(owner):
                    raise InputError(
                        f"process {owner.pid} is writing this run",
                        str(self._folder),
                        f"let it end, or stop it (kill {owner.pid}); or give another --workdir",
                    )
                gone = f"process {owner.pid}, which is no longer there"
            else:
                gone = self._wait(owner)
            if gone is None or self._take_over(gone, owner):
                break
        self._write_beat()
        self._thread = threading.Thread(target=self._hold, daemon=True)
        self._thread.start()

    def _create(self) -> bool:
        """Creates the lock; False where there is one already.

        A mounted bucket says so only when the file is closed, by ESTALE: the one that is there is another's.
        """
        try:
            out = (self._folder / LOCK).open("x", encoding="utf-8")
        except FileExistsError:
            return False
        try:
            with out:
                out.write(json.dumps(self._owner._asdict(), indent=2) + "\n")
        except OSError as error:
            if error.errno == errno.ESTALE:
                return False
            (self._folder / LOCK).unlink(missing_ok=True)
            raise
        return True

    def _wait(self, owner: Owner | None) -> str | None:
        """Watches an owner on another host; returns whom to take over from, None where the lock was released meanwhile.

        Raises:
            BusyError: it is still alive.
        """
        named = f"process {owner.pid} on {owner.name}" if owner else "a process that cannot be read"
        stale = max(LEAST_BEATS * self._beat, self._seconds / 2)
        line = f"{self._folder} is held by {named}; waiting up to {self._seconds:g} s for its end"
        print(for_terminal(line), file=sys.stderr)
        began = changed = time.monotonic()
        seen = _signs(self._folder)
        while True:
            now = time.monotonic()
            if now - changed >= stale:
                return f"{named}, of which nothing was seen for {now - changed:.0f} s"
            if now - began >= self._seconds:
                raise BusyError(f"{self._folder}: {named} is writing this run; try again later")
            time.sleep(min(self._beat / 2, stale / 10))
            if (signs := _signs(self._folder)) != seen:
                seen, changed = signs, time.monotonic()
            if seen[0] is None and self._create():
                return None

    def _take_over(self, gone: str, owner: Owner | None) -> bool:
        """Takes over the lock of a dead owner; False where another process was faster."""
        if _try_owner(self._folder) != owner:
            return False
        write_json(self._folder / LOCK, self._owner._asdict())
        time.sleep(self._settle)
        if _try_owner(self._folder) != self._owner:
            return False
        print(for_terminal(f"{self._folder}: taken over from {gone}"), file=sys.stderr)
        return True

    def _write_beat(self) -> None:
        self._beats += 1
        write_json(self._folder / BEAT, {"token": self._owner.token, "beat": self._beats})

    def _hold(self) -> None:
        while not self._over.wait(self._beat):
            with contextlib.suppress(OSError):  # a shared file system may be unavailable for a while
                if (self._folder / LOCK).exists() or not self._create():
                    found = _try_owner(self._folder)
                    if found is not None and found != self._owner:
                        self._lost(f"{self._folder}: process {found.pid} on {found.name} has taken over this run")
                        return
                self._write_beat()


def this_process() -> Owner:
    """This process as an owner, with a new token."""
    host = f"{_read('/proc/sys/kernel/random/boot_id')} {_pid_space()} {platform.node()}"
    return Owner(uuid.uuid4().hex, host, platform.node(), os.getpid(), _started(os.getpid()) or "")


def is_alive(owner: Owner) -> bool:
    """Whether a process of this host is still running, and its id was not reused."""
    try:
        os.kill(owner.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's process; its start time may be hidden
        return _started(owner.pid) in (None, "", owner.started)
    started = _started(owner.pid)
    return started is None or started == owner.started


def _started(pid: int) -> str | None:
    """Start time of a process, in ticks since boot; "" for one that has ended, None where it is unknown."""
    if not (stat := _read(f"/proc/{pid}/stat")):
        return None if not Path("/proc/self/stat").exists() else ""
    state, *fields = stat.rpartition(")")[2].split()  # the process name before it may hold any character
    return "" if state in "ZX" else fields[18]


def _pid_space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _owner_of(folder: Path) -> Owner:
    saved = read_object(folder / LOCK)
    return Owner(
        *(saved.text(name) for name in ("token", "host", "name")), saved.integer("pid", least=1), saved.text("started")
    )


def _try_owner(folder: Path) -> Owner | None:
    """The owner; None where there is none, or its file cannot be read and may be half-written."""
    try:
        return _owner_of(folder)
    except InputError:
        return None


def _signs(folder: Path) -> tuple[bytes | None, bytes | None]:
    """The content of both files, which changes while an owner lives."""

    def content(file: Path) -> bytes | None:
        try:
            return file.read_bytes()
        except OSError:
            return None

    return content(folder / LOCK), content(folder / BEAT)


def _end(message: str) -> None:
    try:
        line = for_terminal(f"{message}; this process exits, and writes nothing more")
        print(f"\n{line}", file=sys.stderr, flush=True)
    finally:
        os._exit(LOST)
