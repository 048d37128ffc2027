"""Folders that code made in an older version: renamed next to where they were, and found there by who used them."""

import contextlib
import fcntl
import glob
import os
import re
from collections.abc import Callable
from pathlib import Path

_SUFFIX = ".version-"


def put_aside(folder: Path, version: int, is_old: Callable[[], bool]) -> Path | None:
    """Renames a folder to `NAME.version-N`, or `NAME.version-N.2` and so on where that is taken.

    Several processes may do so at once: the first one renames it.

    Args:
        is_old: whether the folder still is the old one.

    Returns:
        The new path; None if another process was first.

    Raises:
        OSError: it cannot be renamed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        with contextlib.suppress(OSError):  # a filesystem without locks, or without those of folders
            fcntl.flock(handle, fcntl.LOCK_EX)  # of the folder itself, which keeps it under its new name
        if not folder.exists() or not os.path.samestat(os.fstat(handle), folder.stat()) or not is_old():
            return None
        number, aside = 1, folder.with_name(f"{folder.name}{_SUFFIX}{version}")
        while aside.exists():
            number += 1
            aside = aside.with_name(f"{folder.name}{_SUFFIX}{version}.{number}")
        return folder.rename(aside)
    finally:
        os.close(handle)


def put_aside_of(path: Path) -> list[Path]:
    """Where what a path named may be now: the same file or folder in each folder that was put aside, newest first."""
    found = []
    for parent in (path, *path.parents):
        numbered = re.compile(re.escape(parent.name + _SUFFIX) + r"(\d+)(?:\.(\d+))?")
        for aside in parent.parent.glob(f"{glob.escape(parent.name)}{_SUFFIX}*") if parent.name else ():
            inside = aside / path.relative_to(parent)
            if (match := numbered.fullmatch(aside.name)) and inside.exists():
                found.append(([int(number or 1) for number in match.groups()], inside))
    return [inside for _, inside in sorted(found, reverse=True)]
