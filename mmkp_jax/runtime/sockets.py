"""Plain TCP between hosts: lines, connections that detect a lost machine, and relaying of bytes."""

import contextlib
import errno
import socket
import time
from collections.abc import Iterator

from mmkp_jax.errors import InputError

KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""Keepalive: idle seconds before the first probe, seconds between probes, and unanswered probes until a loss."""

MAX_LINE_BYTES = 1000
"""Maximum length of a line in bytes."""


def connections(server: socket.socket) -> Iterator[socket.socket]:
    """Yields incoming connections, forever."""
    while True:
        try:
            connection, _ = server.accept()
            keep_alive(connection)
        except OSError:  # it closed again, or file descriptors ran out
            time.sleep(0.1)
        else:
            yield connection


def connected(where: tuple[str, int], seconds: float = 60) -> socket.socket:
    """A connection to an address where something listens or is about to.

    Raises:
        OSError: nothing listens there for `seconds`.
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
    """Copies bytes from `source` to `target` until the end, then ends the target's input, unless `close` is False."""
    source.settimeout(None)
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    if close:
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def send_line(connection: socket.socket, line: str) -> None:
    """Sends a line, truncated if it is too long."""
    with contextlib.suppress(OSError):  # a broken connection is noticed by its reader
        connection.sendall(f"{line[: MAX_LINE_BYTES - 1]}\n".encode())


def received_lines(connection: socket.socket) -> Iterator[str]:
    """Yields received lines; reads no byte after a line before the next one is requested."""
    line = b""
    with contextlib.suppress(OSError):
        while len(line) < MAX_LINE_BYTES and (byte := connection.recv(1)):
            line += byte
            if byte == b"\n":
                yield line.decode(errors="replace").strip()
                line = b""


def keep_alive(connection: socket.socket) -> None:
    """Lets the kernel close the connection when the other machine stops answering."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):  # Linux; elsewhere the system's defaults
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def host_and_port(where: str) -> tuple[str, int]:
    """The parts of HOST:PORT; an IPv6 address may be in brackets."""
    host, _, port = where.rpartition(":")
    return host.strip("[]"), int(port)


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listen(port: int, seconds: float) -> socket.socket:
    """A server on all interfaces; waits up to `seconds` for the port to become free.

    Raises:
        InputError: the port cannot be listened on.
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
