"""The rendezvous of a job's hosts before it starts, and how each learns at once that another is lost.

The first host listens on the job's port. Each other host connects, sends its number, and stays connected until the job
has ended: a connection that closes early, or whose machine stops answering, means a lost host. The kernels check
liveness (TCP keepalive), so a host that compiles or loads for long never counts as lost.

The other hosts' traffic with the service of `jax.distributed` is relayed over the same port: JAX aborts a process whose
connection to the service breaks, and a relayed one does not.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from mmkp_jax.errors import LOST, InputError, LostError
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.sockets import (
    connected,
    connections,
    free_port,
    host_and_port,
    keep_alive,
    listen,
    pump,
    received_lines,
    send_line,
)

JOIN_SECONDS = 600.0
"""Default of how long hosts wait for each other, as their start-up times differ."""

GRACE_SECONDS = 5
"""Seconds between the loss of a host and the exit: time for a host to end with a reason of its own."""

PORT_SECONDS = 30
"""Seconds that the port may still be in use by the job's previous process."""

HELLO = "mmkp_jax"
"""First word of every connection."""

ENDING = threading.Lock()
"""Lock held by the thread that ends the process, so that only one reason is printed."""


def end_as_lost(reason: str) -> NoReturn:
    """Prints the line on a lost host and exits with `LOST` at once: an orderly exit would wait for all hosts."""
    with ENDING:
        line = f"another host of this job is lost ({reason}); started again, the run continues from its last checkpoint"
        print(f"\n{for_terminal(line)}", file=sys.stderr, flush=True)
        os._exit(LOST)


class Meeting:
    """A host's connections to the others of its job.

    Args:
        size: number of hosts.
    """

    address: str
    """Loopback address where this host's `jax.distributed` finds its service."""

    def __init__(self, size: int):
        self.size = size
        self.changed = threading.Condition()
        self.loss: str | None = None
        self._began = False

    def lost_within(self, seconds: float) -> str | None:
        """How a host was lost; None if none is lost within `seconds`."""
        with self.changed:
            self.changed.wait_for(lambda: self.loss, seconds)
            return self.loss

    def leave(self, shut_down: Callable[[], None]) -> None:
        """Waits until all hosts have finished, calls `shut_down`, and disconnects.

        The loss of a host meanwhile ends this process too.
        """
        raise NotImplementedError

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Blocks until the condition holds; forever once a host is lost, as another thread then ends the process."""
        with self.changed:
            self.changed.wait_for(lambda: not self.loss and condition())

    def _update(self, change: Callable[[], object]) -> None:
        with self.changed:
            change()
            self.changed.notify_all()

    def _lose(self, reason: str) -> None:
        """Handles a lost host: if the job has started, ends this process after the grace period."""
        with self.changed:
            if self.loss:
                return
            self.loss, began = reason, self._began
            self.changed.notify_all()
        self._pass_on(reason)
        if began:
            time.sleep(GRACE_SECONDS)
            end_as_lost(reason)

    def _pass_on(self, reason: str) -> None:
        """Reports a loss to the hosts that cannot detect it."""


class FirstHost(Meeting):
    """The first host's side.

    Raises:
        InputError: the port is in use.
    """

    def __init__(self, port: int, size: int, seconds: float):
        super().__init__(size)
        self._joined: dict[int, socket.socket] = {}
        self._done: set[int] = set()
        self._gone: set[int] = set()
        self._mistake: InputError | None = None
        self._service = free_port()
        self.address = f"127.0.0.1:{self._service}"
        self._server = listen(port, min(seconds, PORT_SECONDS))
        _in_background(self._accept)

    def wait_for_all(self, seconds: float) -> None:
        """Blocks until all hosts have joined.

        Raises:
            LostError: one did not join in time, or was lost again.
            InputError: one has another number of hosts.
        """
        with self.changed:
            self.changed.wait_for(lambda: self.loss or self._mistake or len(self._joined) == self.size - 1, seconds)
            missing = [str(host) for host in range(1, self.size) if host not in self._joined]
            self._began = not (self.loss or self._mistake or missing)
        if self._began:
            return self._send_all("go")
        if self._mistake:
            self._send_all(f"mistake {self._mistake.what}")
            raise self._mistake
        absent = f"of {self.size} hosts, {', '.join(missing)} did not join within {seconds:g} s (--join_seconds)"
        self._pass_on(reason := self.loss or absent)
        raise LostError(_did_not_begin(reason))

    def leave(self, shut_down: Callable[[], None]) -> None:
        self._wait(lambda: len(self._done) == self.size - 1)
        self._send_all("done")
        shut_down()
        self._wait(lambda: len(self._gone) == self.size - 1)  # until then they need the relay

    def _accept(self) -> None:
        for connection in connections(self._server):
            _in_background(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        lines = received_lines(connection)
        match next(lines, "").split():
            case [name, "relay"] if name == HELLO:
                with contextlib.suppress(OSError):
                    service = connected(("127.0.0.1", self._service))  # it starts at about the same time
                    _in_background(pump, connection, service)
                    pump(service, connection)
            case [name, "join", host, size] if name == HELLO and host.isdecimal() and size.isdecimal():
                self._admit(connection, lines, int(host), int(size))
            case _:
                connection.close()  # not a host of ours

    def _admit(self, connection: socket.socket, lines: Iterator[str], host: int, size: int) -> None:
        with self.changed:
            if size != self.size:
                what = f"host {host} counts {size} hosts in this job, and the first counts {self.size}"
                if not self._began:  # else it belongs to another job, and this one continues
                    mistake = InputError(what, "--num_processes", "give all of them the same")
                    self._mistake = self._mistake or mistake
                    self.changed.notify_all()
                send_line(connection, f"mistake {what}")
                return connection.close()
            elif self._began or host in self._joined or not 0 < host < size:
                send_line(connection, f"taken host {host} has joined already")
                return connection.close()
            else:
                self._joined[host] = connection
            self.changed.notify_all()
        connection.settimeout(None)
        for line in lines:
            if line == "done":
                self._update(lambda: self._done.add(host))
            elif line == "bye":
                return self._update(lambda: self._gone.add(host))
        if self._joined.get(host) is connection:
            self._lose(f"host {host} of {self.size}")

    def _send_all(self, line: str) -> None:
        for connection in list(self._joined.values()):
            send_line(connection, line)

    def _pass_on(self, reason: str) -> None:
        self._send_all(f"lost {reason}")


class OtherHost(Meeting):
    """The side of every other host.

    Args:
        where: HOST:PORT of the first host.
        host: number of this host.
        size: number of hosts.
    """

    def __init__(self, where: str, host: int, size: int):
        super().__init__(size)
        self._where, self._host = host_and_port(where), host
        self.connected = self._released = self._leaving = self._left = False
        self._relay = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._relay.getsockname()[1]}"

    def wait_for_all(self, seconds: float) -> None:
        """Blocks until all hosts have joined.

        Raises:
            LostError: not all joined in time, or one was lost again.
            InputError: the first host has another number of hosts.
        """
        deadline = time.monotonic() + seconds
        reason = "the first host does not answer"
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(OSError):  # its name may not resolve yet, or its process not run
                self._connection = socket.create_connection(self._where, timeout=min(left, 10))
                keep_alive(self._connection)
                send_line(self._connection, f"{HELLO} join {self._host} {self.size}")
                self._connection.settimeout(left)
                self.connected = True
                lines = received_lines(self._connection)
                line = next(lines, None)
                if line is None and time.monotonic() < deadline:
                    raise LostError(_did_not_begin("the first host was lost again"))
                word, _, rest = (line or "").partition(" ")
                if word == "go":
                    return self._begin(lines)
                if word == "mistake":
                    raise InputError(rest, "--num_processes", "give all of them the same")
                if word == "lost":
                    raise LostError(_did_not_begin(rest))
                reason = rest or "not all have joined"
            time.sleep(min(1, max(0, deadline - time.monotonic())))
        raise LostError(_did_not_begin(f"{reason}, within {seconds:g} s (--join_seconds)"))

    def leave(self, shut_down: Callable[[], None]) -> None:
        send_line(self._connection, "done")
        self._wait(lambda: self._released)
        self._leaving = True
        shut_down()
        self._left = True
        send_line(self._connection, "bye")

    def _begin(self, lines: Iterator[str]) -> None:
        self._began = True
        self._connection.settimeout(None)
        _in_background(self._hear, lines)
        _in_background(self._accept)

    def _hear(self, lines: Iterator[str]) -> None:
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "lost":
                return self._lose(rest)
            if word == "done":
                self._update(lambda: setattr(self, "_released", True))
        if not self._left:
            self._lose(f"host 0 of {self.size}")

    def _accept(self) -> None:
        for connection in connections(self._relay):
            _in_background(self._forward, connection)

    def _forward(self, client: socket.socket) -> None:
        """Relays JAX's traffic; JAX does not notice when the connection to the first host breaks."""
        closed = threading.Event()  # set when JAX itself closes the connection

        def send() -> None:
            pump(client, first)
            closed.set()

        with contextlib.suppress(OSError):
            first = connected(self._where)
            send_line(first, f"{HELLO} relay")
            _in_background(send)
            pump(first, client, close=False)
        if not (closed.is_set() or self._leaving):
            self._lose(f"host 0 of {self.size}")


def _did_not_begin(reason: str) -> str:
    return f"the hosts of this job did not meet ({reason}); start all of them again"


def _in_background(work: Callable, *args: object) -> None:
    threading.Thread(target=work, args=args, daemon=True).start()


def meet(where: str, host: int, size: int, seconds: float) -> Meeting:
    """Waits for the other hosts of the job.

    Args:
        where: HOST:PORT of the first host, on which it listens.
        host: number of this host, from 0.
        size: number of hosts.
        seconds: how long to wait.

    Raises:
        LostError: not all joined in time, or one was lost again.
        InputError: the port is in use, or hosts disagree on their number.
    """
    meeting = OtherHost(where, host, size) if host else FirstHost(host_and_port(where)[1], size, seconds)
    meeting.wait_for_all(seconds)
    return meeting
