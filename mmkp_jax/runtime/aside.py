"""Folders that code made in an older version: renamed next to where they were, and found there by who used them."""

import fcntl
import os
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
        if parent.name:
            for aside in parent.parent.glob(f"{parent.name}{_SUFFIX}*"):
                found.append(aside / path.relative_to(parent))
    return sorted((each for each in found if each.exists()), key=lambda each: each.stat().st_mtime, reverse=True)
