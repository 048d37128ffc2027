"""Ctrl-C at any moment of a command: the exit status 130 and one line, while modules are imported and the second too.

While a command imports its modules, and after its first Ctrl-C, a Ctrl-C ends the process at once. The first one while
it runs raises KeyboardInterrupt, so that it can finish its files.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130
"""The exit status after Ctrl-C."""


def while_importing() -> None:
    """Lets a Ctrl-C end the process at once where the package is run as `python -m mmkp_jax.COMMAND`.

    Called when the package is imported, before any module that takes long. Where the package is imported by something
    else, or Ctrl-C is handled or ignored already, nothing changes.
    """
    runs_a_module = sys.argv[:1] == ["-m"]  # what Python says until it has found the module to run
    if runs_a_module and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def while_running() -> Iterator[None]:
    """The first Ctrl-C raises KeyboardInterrupt, and a second one ends the process at once.

    A handler that is neither Python's nor this module's stays; so does SIGINT where it is ignored.
    """
    known = (signal.default_int_handler, _end)
    before = signal.getsignal(signal.SIGINT)
    if before not in known or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, _end)
    raise KeyboardInterrupt


def _end(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"\ninterrupted\n")
    os._exit(INTERRUPTED)
