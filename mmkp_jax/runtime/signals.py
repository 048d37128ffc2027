"""Ctrl-C and SIGTERM while a command is still being imported: a line and a status, where Python prints a traceback."""

import itertools
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""The exit status after Ctrl-C."""

AGAIN = 75
"""As `errors.AGAIN`; nothing else of the package is imported here."""


def guard_imports() -> None:
    """Ends `python -m mmkp_jax.COMMAND` in a line when it is stopped before the command itself has begun.

    Nothing is lost then. Ctrl-C ends in 130; SIGTERM ends `main`, which launchers start again, in 75. A program that
    imports the package is left alone.
    """
    command = _command()
    if command is None or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    if command == "main" and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)


def imports_are_over() -> None:
    """Gives Ctrl-C back to Python: it is a KeyboardInterrupt from here on."""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _command() -> str | None:
    """The module of this package that `python -m` is about to run."""
    if sys.argv[:1] != ["-m"]:  # which is replaced by the module's file once the packages above it are imported
        return None
    options = sys.orig_argv[1:]
    module = next((after for flag, after in itertools.pairwise(options) if flag == "-m"), "")
    package, _, name = module.partition(".")
    return name if package == "mmkp_jax" else None


def _interrupted(_: int, frame: FrameType | None) -> NoReturn:
    end_at_once("interrupted", INTERRUPTED)


def _terminated(_: int, frame: FrameType | None) -> NoReturn:
    end_at_once("stopped; nothing was begun: start it again", AGAIN)


def end_at_once(message: str, status: int) -> NoReturn:
    """Ends the process with a line, whatever its threads are at."""
    try:
        os.write(2, f"\n{message}\n".encode())  # a print may be under way in the code that the signal broke into
    finally:
        os._exit(status)
