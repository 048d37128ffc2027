"""Ports for servers of other processes."""

import random
import socket

BELOW = 32_768
"""From here on systems hand ports out by themselves, to any connection that begins in the meantime."""


def free_port() -> int:
    """A port of this machine that nothing listens on; another process can take it a little later."""
    while True:
        port = random.SystemRandom().randrange(15_000, BELOW)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
