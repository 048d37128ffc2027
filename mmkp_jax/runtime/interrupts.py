"""Ctrl-C at any moment of a command: exit status 130 and one line, also during imports.

The first Ctrl-C while a command runs raises KeyboardInterrupt, so that it can finish its files. During imports, and
after the first one, a Ctrl-C ends the process at once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from mmkp_jax.errors import AGAIN
from mmkp_jax.runtime.program import PACKAGE, started_module

INTERRUPTED = 130
"""The exit status after Ctrl-C."""

RESUMED_COMMAND = "main"
"""The command that launchers start again after SIGTERM."""


def while_importing() -> None:
    """Lets a Ctrl-C end the process at once where the package runs as `python -m mmkp_jax.COMMAND`.

    SIGTERM ends `main` at once too, with the status after which launchers start it again.

    Called when the package is imported, before any slow import. Nothing changes where something else imports the
    package, or where Ctrl-C is handled or ignored already.
    """
    if sys.argv[:1] == ["-m"]:  # its value until Python has found the module to run
        end_at_signals(is_resumed=started_module() == f"{PACKAGE}.{RESUMED_COMMAND}")


def end_at_signals(*, is_resumed: bool) -> None:
    """Lets an unhandled Ctrl-C end the process at once; SIGTERM too, where launchers resume the command."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    if is_resumed and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end_to_be_started_again)


def end_at_once(message: str, status: int) -> NoReturn:
    """Ends the process with a line, whatever its threads are doing; for signal handlers."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{message}\n".encode())  # not print: the signal may have interrupted one
    os._exit(status)


@contextlib.contextmanager
def while_running() -> Iterator[None]:
    """The first Ctrl-C raises KeyboardInterrupt, and a second one ends the process at once.

    A handler that is neither Python's nor this module's is kept; so is SIGINT where it is ignored.
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


@contextlib.contextmanager
def while_loading() -> Iterator[None]:
    """Lets a Ctrl-C end the process at once inside a running command; for imports, which cannot be interrupted."""
    if signal.getsignal(signal.SIGINT) is not _raise:
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, _end)
    raise KeyboardInterrupt


def _end(number: int, frame: FrameType | None) -> None:
    end_at_once("interrupted", INTERRUPTED)


def _end_to_be_started_again(number: int, frame: FrameType | None) -> None:
    end_at_once("stopped; nothing was started: start it again", AGAIN)
