"""Lists the commands and runs one: `mmkp COMMAND [flags]` or `python -m mmkp_jax COMMAND [flags]`."""

import ast
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.runtime.cli import status_of, summary
from mmkp_jax.runtime.interrupts import RESUMED_COMMAND, end_at_signals
from mmkp_jax.runtime.program import PACKAGE, command_line

NOT_COMMANDS = ("__init__", "__main__", "errors")
"""Files of the package's root that are not commands."""


def commands() -> dict[str, str]:
    """One line on each command, by its name, read from the files without importing them."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    docs = {each.stem: ast.parse(each.read_bytes()) for each in files if each.stem not in NOT_COMMANDS}
    return {name: summary(ast.get_docstring(tree) or "") for name, tree in docs.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status of the command; 0 after the list of commands, 2 after one line on a command that is unknown.

    Args:
        arguments: a command and its flags; by default, those that the process was started with.
    """
    command, *flags = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if arguments is None:
        end_at_signals(is_resumed=command == RESUMED_COMMAND)
        if os.getcwd() not in sys.path:  # as `python -m` does, so that a config's own modules are found
            sys.path.append(os.getcwd())
    if command.isidentifier() and command in commands():
        return importlib.import_module(f"{PACKAGE}.{command}").main(flags)
    return status_of(_list, [command])


def _list(arguments: Sequence[str] | None) -> None:
    known = commands()
    if arguments not in (["--help"], ["-h"]):
        what = f"unknown command {arguments[0]!r}{nearest(arguments[0], known)}"
        raise InputError(what, command_line(), "see --help")
    width = max(map(len, known))
    print(f"usage: {command_line('COMMAND')} [flags]\n")
    print("\n".join(f"  {name:{width}}  {about}" for name, about in known.items()))
    print(f"\n{command_line('COMMAND')} --help lists a command's flags.")


if __name__ == "__main__":
    sys.exit(main())
