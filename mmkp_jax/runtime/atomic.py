"""Files that are written atomically: under another name first, then renamed over the old one."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

PART = ".part"
"""Ending of a file that is still being written; one that a kill left behind is replaced by the next write."""


def part_of(file: Path) -> Path:
    """Where `file` is until it is complete."""
    return file.with_name(file.name + PART)


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """A new file open for writing, which takes the place of `file` when the block ends, and never if it raises.

    What was written is on the disk before the old file goes. Folders above are made. A link stays, and the file that it
    leads to is replaced. A device or a pipe (`/dev/stdout`) is no file to replace: it is written to as it is.

    Raises:
        OSError: it cannot be written, or is a folder; the old file is as it was.
    """
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if _is_special(file):
        with file.open("wb") as out:
            yield out
        return
    file = Path(os.path.realpath(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(file)
    try:
        with part.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _is_special(file: Path) -> bool:
    """Whether renaming another file over this one would take away something that is no file of ours."""
    of_the_system = os.path.abspath(file).startswith(("/dev/", "/proc/"))  # also where the output is sent to a file
    return file.exists() and (of_the_system or not file.is_file())


def write_bytes(file: Path, content: bytes) -> None:
    """Writes a whole file; raises as `replacing`."""
    with replacing(file) as out:
        out.write(content)


def write_text(file: Path, text: str) -> None:
    """Writes a whole UTF-8 file; raises as `replacing`."""
    write_bytes(file, text.encode("utf-8"))


def write_json(file: Path, content: Any, *, indent: int | None = 2, sort_keys: bool = False) -> None:
    """Writes a whole JSON file for people to read; raises as `replacing`.

    Half of a character, which UTF-8 does not have, is written as its escape (a file's name that is not UTF-8 has such).

    Raises:
        ValueError: a number in it is not finite, which JSON has no word for.
    """
    text = json.dumps(content, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    write_bytes(file, f"{text}\n".encode("utf-8", "backslashreplace"))
