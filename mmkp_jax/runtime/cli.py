"""Shared parts of the commands: flags whose mistakes are reported in one line, and the exit status."""

import argparse
import contextlib
import errno
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from mmkp_jax.errors import LOST, InputError, LostError, nearest
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.interrupts import INTERRUPTED, while_running
from mmkp_jax.runtime.paths import check_all_local, check_outputs
from mmkp_jax.runtime.program import command_line
from mmkp_jax.runtime.terminal import UNREAD, drop_unread_output, escape_unencodable

DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
}
"""Error numbers of a full or protected disk, and of a missing or invalid path."""


class Parser(argparse.ArgumentParser):
    """A parser that raises mistakes as `InputError`; flags cannot be abbreviated.

    Args:
        command: the command's name, such as `main`.
        about: the module's docstring, whose first line says what the command does.
    """

    def __init__(self, command: str, about: str, **options: str):
        super().__init__(command_line(command), description=f"{command_summary(about)}.", allow_abbrev=False, **options)
        self.register("type", Path, _path)  # for every flag of `type=Path`

    def error(self, message: str) -> NoReturn:
        raise InputError(message, self.prog, "see --help")

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The flags; the error on an unknown one suggests the nearest known."""
        flags, overrides = self.parse_with_overrides(arguments)
        if overrides:
            self._refuse(overrides[0], flags)
        return flags

    def parse_with_overrides(self, arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
        """The flags, and separately those of the form --config.key=value."""
        flags, rest = self.parse_known_args(arguments)
        for each in rest:
            if not each.startswith("--config."):
                self._refuse(each, flags)
        for name, value in vars(flags).items():
            check_all_local(value, f"--{name}")
        check_outputs(vars(flags))
        return flags, rest

    def _refuse(self, flag: str, flags: argparse.Namespace) -> NoReturn:
        known = [f"--{name}" for name in vars(flags)]
        self.error(f"unknown flag {flag}{nearest(flag.partition('=')[0], known)}")


def command_summary(about: str) -> str:
    """What a command does: the first line of its docstring, without the usage and the full stop."""
    return about.strip().split("\n", 1)[0].split(": `")[0].rstrip(".")


def _path(text: str) -> Path:
    """The type of a flag that takes a path, which may not be empty: `Path` makes that the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def file_list(text: str) -> list[Path]:
    """The type of a flag that takes distinct files, separated by commas."""
    names = text.split(",")
    if "" in names:
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name")
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} names a file twice")
    return [Path(name) for name in names]


def status_of(
    run: Callable[[Sequence[str] | None], object], arguments: Sequence[str] | None = None, *, interrupted: str = ""
) -> int:
    """The exit status: what `run` returns where that is a number, else 0; 2 after one line on what was wrong.

    Where nothing reads the output any more (`… | head`), it is 141, without a message.

    Args:
        interrupted: the line to print at a Ctrl-C, which gives 130; a second Ctrl-C ends the process at once.
    """
    escape_unencodable()
    try:
        with while_running(), disk_errors_in_one_line():
            status = run(arguments)
            if sys.stdout:  # closed by `>&-`
                sys.stdout.flush()
    except InputError as error:
        print(for_terminal(str(error)), file=sys.stderr)
        return 2
    except LostError as error:
        print(for_terminal(str(error)), file=sys.stderr)
        return LOST
    except BrokenPipeError:
        if not drop_unread_output():
            raise
        return UNREAD
    except KeyboardInterrupt:
        print(f"\n{interrupted or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    return status if isinstance(status, int) else 0


@contextlib.contextmanager
def disk_errors_in_one_line(where: object = "the disk") -> Iterator[None]:
    """Turns an OSError of a full or protected disk into an InputError; `where` is for those without a file."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        file = str(error.filename or where)
        raise InputError(f"cannot be written ({error.strerror})", file, "check free space and permissions") from error
