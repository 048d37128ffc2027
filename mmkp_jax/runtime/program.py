"""Command lines of the package: `python -m mmkp_jax.COMMAND`, `python -m mmkp_jax COMMAND`, `mmkp COMMAND`."""

import itertools
import sys
from pathlib import Path

PACKAGE = "mmkp_jax"
SCRIPT = "mmkp"
"""Name of the console script, as in `setup.py`."""


def command_line(command: str = "") -> str:
    """The command line of a command, in the form in which this process was started.

    Args:
        command: the command's name, such as `main`; empty for the program that lists them.
    """
    if Path(sys.argv[0] if sys.argv else "").stem == SCRIPT:
        return f"{SCRIPT} {command}".rstrip()
    if started_module() == PACKAGE or not command:
        return f"python -m {PACKAGE} {command}".rstrip()
    return f"python -m {PACKAGE}.{command}"


def started_module() -> str:
    """The module that Python runs with `-m`; empty where it runs a file."""
    return next((after for flag, after in itertools.pairwise(sys.orig_argv) if flag == "-m"), "")
