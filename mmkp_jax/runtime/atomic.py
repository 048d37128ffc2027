"""Files and folders that are written atomically: under another name first, then renamed over the old one."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

PART = ".part"
"""Ending of a file that is still being written; one that a kill left behind is replaced by the next write."""


def part_of(file: Path) -> Path:
    """Where `file` is until it is complete."""
    return file.with_name(file.name + PART)


@contextlib.contextmanager
def renaming(file: Path, *, unique: bool = False) -> Iterator[Path]:
    """The path to write a new file to, which takes the place of `file` when the block ends, and never if it raises.

    Folders above are made. A link stays, and the file that it leads to is replaced.

    Args:
        unique: whether several processes may write the file at the same time: each writes under a name of its own.
    """
    file = Path(os.path.realpath(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(file.with_name(f".{file.name}-{uuid.uuid4().hex}") if unique else file)
    try:
        yield part
        os.replace(part, file)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replacing(file: Path, *, unique: bool = False) -> Iterator[BinaryIO]:
    """A new file open for writing, which takes the place of `file` as that of `renaming` does.

    What was written is on the disk before the old file goes. A device or a pipe (`/dev/stdout`) is no file to replace:
    it is written to as it is.

    Raises:
        OSError: it cannot be written, or is a folder; the old file is as it was.
    """
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if _is_special(file):
        with file.open("wb") as out:
            yield out
        return
    with renaming(file, unique=unique) as part, part.open("wb") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())


@contextlib.contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """A folder to write files into, which takes the place of `out` when the block ends; nothing is left if it raises.

    What was written is on the disk before the old folder goes. One process at a time; what a killed one left is removed
    by the next.

    Raises:
        OSError: it cannot be written; the old folder is as it was.
    """
    out = out.absolute()
    unfinished, before = out.with_name(f".{out.name}.unfinished"), out.with_name(f".{out.name}.before")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # a killed process's
        unfinished.mkdir(parents=True)
        if out.exists():
            shutil.rmtree(before, ignore_errors=True)  # killed while it was removed
        elif before.exists():  # killed between the two renamings below
            os.replace(before, out)
        yield unfinished
        for path in (*unfinished.iterdir(), unfinished):
            _sync(path)
        if out.exists():
            os.replace(out, before)
        os.replace(unfinished, out)
        _sync(out.parent)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def making_folder(out: Path, is_made: Callable[[], bool]) -> Iterator[Path]:
    """A folder to write into, which becomes `out` when the block ends; nothing is left if it raises.

    Several processes may make the same: the first to end gives the folder, and the others' are dropped.

    Args:
        is_made: whether `out` is what was to be made, asked when it cannot be put there.

    Raises:
        OSError: it cannot be written, or something else is there.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.unfinished-", dir=out.parent))
    try:
        unfinished.chmod(0o755)  # mkdtemp's are for one user only
        yield unfinished
        try:
            os.replace(unfinished, out)
        except OSError:
            if not is_made():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Renames a damaged file or folder, so that another can take its name; where it is now.

    Raises:
        OSError: it cannot be renamed.
    """
    return path.rename(path.with_name(f"{path.name}.damaged-{uuid.uuid4().hex[:8]}"))


def _sync(path: Path) -> None:
    """Returns when a file, or a folder's list of names, is on the disk and outlasts a lost machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
