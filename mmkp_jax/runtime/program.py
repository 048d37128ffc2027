"""How the commands are started: `python -m mmkp_jax.COMMAND`, `python -m mmkp_jax COMMAND`, `mmkp COMMAND`."""

import itertools
import sys
from pathlib import Path

PACKAGE = "mmkp_jax"
SCRIPT = "mmkp"
"""The console script; `setup.py` names it too."""


def command_line(command: str = "") -> str:
    """What to type for a command, in the form in which this process was started.

    Args:
        command: such as `main`; empty for the program that lists them.
    """
    if Path(sys.argv[0] if sys.argv else "").stem == SCRIPT:
        return f"{SCRIPT} {command}".rstrip()
    if started_module() == PACKAGE or not command:
        return f"python -m {PACKAGE} {command}".rstrip()
    return f"python -m {PACKAGE}.{command}"


def started_module() -> str:
    """The module that Python was asked to run with `-m`; empty where it was a file."""
    return next((after for flag, after in itertools.pairwise(sys.orig_argv) if flag == "-m"), "")
