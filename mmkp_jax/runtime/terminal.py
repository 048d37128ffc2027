"""Output that any terminal takes, whatever its encoding."""

import os
import select
import sys
from typing import TextIO

UNREAD = 141
"""The exit status where nothing reads the output any more (`… | head`), as a shell has it after SIGPIPE."""


def print_anywhere() -> None:
    """Lets stdout and stderr print what their encoding lacks as escapes (`\\u03b3`), in place of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def drop_unread_output() -> bool:
    """Whether a stream's reader has gone; what is still to be written to it is then dropped without an error."""
    unread = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
    for stream in unread:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(unread)


def _has_no_reader(stream: TextIO) -> bool:
    try:
        file = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
