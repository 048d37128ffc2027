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
"""Suffix of a file that is still being written; one left by a kill is replaced by the next write."""


def part_of(file: Path) -> Path:
    """Temporary path of `file` until it is complete."""
    return file.with_name(file.name + PART)


@contextlib.contextmanager
def renaming(file: Path, *, unique: bool = False) -> Iterator[Path]:
    """A temporary path for a new file, which replaces `file` when the block ends, and never if it raises.

    Parent folders are created. A link is kept, and its target is replaced.

    Args:
        unique: each process writes under a name of its own, so that several may write the file at the same time.
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
    """A new file open for writing, which replaces `file` as with `renaming`.

    Its content is synced to disk before the old file is replaced. A device or a pipe (`/dev/stdout`) is written to in
    place.

    Raises:
        OSError: it cannot be written, or is a folder; the old file is unchanged.
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
    """A temporary folder, which replaces `out` when the block ends; nothing is left of it if the block raises.

    Its files are synced to disk before the old folder is replaced. For one process at a time; what a killed process
    left is removed by the next.

    Raises:
        OSError: it cannot be written; the old folder is unchanged.
    """
    out = out.absolute()
    unfinished, before = out.with_name(f".{out.name}.unfinished"), out.with_name(f".{out.name}.before")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed process
        unfinished.mkdir(parents=True)
        if out.exists():
            shutil.rmtree(before, ignore_errors=True)  # left by a process killed while removing it
        elif before.exists():  # left by a process killed between the two renames below
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
    """A temporary folder, which becomes `out` when the block ends; nothing is left of it if the block raises.

    Several processes may make the same folder: the first one to finish provides it, and the others' are dropped.

    Args:
        is_made: whether `out` is already what is being made; called when the rename fails.

    Raises:
        OSError: it cannot be written, or `out` is something else.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.unfinished-", dir=out.parent))
    try:
        unfinished.chmod(0o755)  # mkdtemp makes it private to one user
        yield unfinished
        try:
            os.replace(unfinished, out)
        except OSError:
            if not is_made():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def rename_damaged(path: Path) -> Path:
    """Renames a damaged file or folder, so that its name is free; returns the new path.

    Raises:
        OSError: it cannot be renamed.
    """
    return path.rename(path.with_name(f"{path.name}.damaged-{uuid.uuid4().hex[:8]}"))


def _sync(path: Path) -> None:
    """Syncs a file, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_special(file: Path) -> bool:
    """Whether the path is a device, a pipe or the like, which a rename must not replace."""
    of_the_system = os.path.abspath(file).startswith(("/dev/", "/proc/"))  # also where output is redirected to a file
    return file.exists() and (of_the_system or not file.is_file())


def write_bytes(file: Path, content: bytes) -> None:
    """Writes a file atomically; raises as `replacing`."""
    with replacing(file) as out:
        out.write(content)


def write_text(file: Path, text: str) -> None:
    """Writes a UTF-8 file atomically; raises as `replacing`."""
    write_bytes(file, text.encode("utf-8"))


def write_json(file: Path, content: Any, *, indent: int | None = 2, sort_keys: bool = False) -> None:
    """Writes a readable JSON file atomically; raises as `replacing` and `json_bytes`."""
    write_bytes(file, json_bytes(content, indent=indent, sort_keys=sort_keys))


def json_bytes(content: Any, *, indent: int | None = 2, sort_keys: bool = False) -> bytes:
    """A readable JSON file's content; lone surrogates, as in file names that are not UTF-8, are escapes.

    Raises:
        ValueError: a number in it is not finite, which JSON cannot hold.
    """
    text = json.dumps(content, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode("utf-8", "backslashreplace")
