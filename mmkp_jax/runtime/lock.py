"""One writer a folder: who holds it, and whether that process is still there; on one host or several that share it.

`run.lock` names the owner and is written once a claim; `run.beat` changes every few seconds for as long as the owner
lives. An owner on this host is looked up among its processes; one on another host counts as gone when its `run.beat`
has not changed for a while *as watched from here*: clocks are never compared.
"""

import contextlib
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
FILES = frozenset({LOCK, BEAT, part_of(Path(LOCK)).name, part_of(Path(BEAT)).name})

BEAT_SECONDS = 5.0
LEAST_BEATS = 3
"""An owner that missed fewer is never taken for gone."""

SETTLE_SECONDS = 1.0
"""After a lock was taken over; of two that do so at once, the later one's name is then in the file."""


class Owner(NamedTuple):
    """A process, told apart from any other on any host at any time."""

    token: str
    """Of this claim alone."""
    host: str
    """The machine since it was started, and its space of process ids (a container has its own)."""
    name: str
    """The machine's name, for people."""
    pid: int
    started: str
    """When the process began, as the system counts it: ids are given out again."""


class Lock(contextlib.AbstractContextManager):
    """Holds a folder from `acquire` until the block is left.

    Args:
        seconds: how long to wait for an owner on another host, at most. It counts as gone after half of that without
            a change, though never before it missed three beats.
        lost: called, on a thread, when the folder turns out to belong to somebody else; by default the process says so
            and ends with 76, and writes nothing more.
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
        """Takes the folder, which is made where it is not there; says in one line whom it was taken over from.

        Raises:
            InputError: a process on this host holds it.
            BusyError: one on another host does, and still did after `seconds`.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        while not self._create():
            owner = _try_owner(self._folder)
            if owner is None:  # it may be in writing
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
        """Whether there was no lock, and now is this one."""
        try:
            out = (self._folder / LOCK).open("x", encoding="utf-8")
        except FileExistsError:
            return False
        try:
            with out:
                out.write(json.dumps(self._owner._asdict(), indent=2) + "\n")
        except OSError:
            (self._folder / LOCK).unlink(missing_ok=True)
            raise
        return True

    def _wait(self, owner: Owner | None) -> str | None:
        """Watches an owner on another host: whom to take over from; None where the lock was given back meanwhile.

        Raises:
            BusyError: it still lives.
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
        """Whether the lock of an owner that is gone became this one's; not where another was quicker."""
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
            with contextlib.suppress(OSError):  # a shared file system that is away for a while
                if (self._folder / LOCK).exists() or not self._create():
                    found = _try_owner(self._folder)
                    if found is not None and found != self._owner:
                        self._lost(f"{self._folder}: process {found.pid} on {found.name} has taken over this run")
                        return
                self._write_beat()


def this_process() -> Owner:
    """An owner that is this process, with a token of its own."""
    host = f"{_read('/proc/sys/kernel/random/boot_id')} {_pid_space()} {platform.node()}"
    return Owner(uuid.uuid4().hex, host, platform.node(), os.getpid(), _started(os.getpid()) or "")


def is_alive(owner: Owner) -> bool:
    """Whether a process of this host is still there, and no other that was given its id."""
    try:
        os.kill(owner.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's, but there; what it is may be hidden from us
        return _started(owner.pid) in (None, "", owner.started)
    started = _started(owner.pid)
    return started is None or started == owner.started


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; "" for one that has ended, None where it is not known."""
    if not (stat := _read(f"/proc/{pid}/stat")):
        return None if not Path("/proc/self/stat").exists() else ""
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
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
    told = read_object(folder / LOCK)
    return Owner(
        *(told.text(name) for name in ("token", "host", "name")), told.integer("pid", least=1), told.text("started")
    )


def _try_owner(folder: Path) -> Owner | None:
    """The owner; None where there is none, or its file cannot be read: it may be in writing."""
    try:
        return _owner_of(folder)
    except InputError:
        return None


def _signs(folder: Path) -> tuple[bytes | None, bytes | None]:
    """What changes for as long as an owner lives."""

    def content(file: Path) -> bytes | None:
        try:
            return file.read_bytes()
        except OSError:
            return None

    return content(folder / LOCK), content(folder / BEAT)


def _end(message: str) -> None:
    try:
        line = for_terminal(f"{message}; this process ends, and writes nothing more")
        print(f"\n{line}", file=sys.stderr, flush=True)
    finally:
        os._exit(LOST)
