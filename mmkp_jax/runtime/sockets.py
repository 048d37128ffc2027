"""Plain TCP between hosts: lines, connections that notice a lost machine, and bytes passed on from one to another."""

import contextlib
import errno
import socket
import time
from collections.abc import Iterator

from mmkp_jax.errors import InputError

KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""Seconds without traffic, seconds between questions, and questions without answer, after which a machine is lost."""

MAX_LINE_BYTES = 1000
"""Bytes of a line."""


def connections(server: socket.socket) -> Iterator[socket.socket]:
    """What connects, without end."""
    while True:
        try:
            connection, _ = server.accept()
            keep_alive(connection)
        except OSError:  # it is gone again, or files are short
            time.sleep(0.1)
        else:
            yield connection


def connected(where: tuple[str, int], seconds: float = 60) -> socket.socket:
    """A connection to a place where something listens or is about to.

    Raises:
        OSError: nothing does for so many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection = socket.create_connection(where, timeout=seconds)
            keep_alive(connection)
            return connection
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def pump(source: socket.socket, target: socket.socket, *, close: bool = True) -> None:
    """Passes on what comes in until it ends; then ends the other direction too, unless `close` is False."""
    source.settimeout(None)
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    if close:
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def send_line(connection: socket.socket, line: str) -> None:
    """Sends a line, cut where it is too long."""
    with contextlib.suppress(OSError):  # a connection that broke is noticed where it is read
        connection.sendall(f"{line[: MAX_LINE_BYTES - 1]}\n".encode())


def received_lines(connection: socket.socket) -> Iterator[str]:
    """The lines that come in; no byte after a line is taken before the next is asked for."""
    line = b""
    with contextlib.suppress(OSError):
        while len(line) < MAX_LINE_BYTES and (byte := connection.recv(1)):
            line += byte
            if byte == b"\n":
                yield line.decode(errors="replace").strip()
                line = b""


def keep_alive(connection: socket.socket) -> None:
    """Lets the kernel end the connection when the other machine answers no more."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):  # Linux; elsewhere the system's own
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def host_and_port(where: str) -> tuple[str, int]:
    """The parts of HOST:PORT; an IPv6 address may be in brackets."""
    host, _, port = where.rpartition(":")
    return host.strip("[]"), int(port)


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listen(port: int, seconds: float) -> socket.socket:
    """A server on all interfaces; the port may be another's for so many seconds more.

    Raises:
        InputError: it cannot be listened on.
    """
    deadline = time.monotonic() + seconds
    while True:
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        try:
            return socket.create_server(("", port), backlog=1024)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                what = f"the hosts cannot meet there ({error.strerror})"
                raise InputError(what, f"port {port}", "name a free one in --coordinator") from None
            time.sleep(0.2)
