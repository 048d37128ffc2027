"""Checks of paths from users: local ones only; a bucket or a URL is refused before anything is written."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mmkp_jax.errors import InputError

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.\-]+):/")  # one letter is a drive; pathlib turns `gs://` into `gs:/`

_BUCKET = re.compile(r"\s*(gs|gcs|s3|s3a|hdfs|abfss?|wasbs?|az):[^/]+/", re.IGNORECASE)
"""A bucket without its slashes; `s3:test` is a dataset's split instead."""


def scheme_of(path: str | os.PathLike[str]) -> str | None:
    """The scheme of a URL (`gs`, `s3`, `https`, `file`), also after pathlib removed a slash."""
    found = _SCHEME.match(os.fspath(path)) or _BUCKET.match(os.fspath(path))
    return found[1].lower() if found else None


def check_local(path: str | os.PathLike[str], where: str) -> None:
    """Refuses a path that names a bucket or a URL.

    Args:
        where: the flag or field that gave the path.

    Raises:
        InputError: it names a bucket or a URL.
    """
    if scheme := scheme_of(path):
        hint = "give the path itself" if scheme == "file" else "give a local folder, or one where the bucket is mounted"
        raise InputError(f"{scheme}:// is not a local path, and only those can be used", where, hint)


OUTPUTS = ("out", "json", "store")
"""Flags that name a command's outputs."""


def check_outputs(flags: Mapping[str, object]) -> None:
    """Refuses an output that another flag names too, as writing it would overwrite that file.

    Args:
        flags: values by name.

    Raises:
        InputError: two flags name the same file.
    """
    for name in OUTPUTS:
        others = [path for other, value in flags.items() if other != name for path in _paths_in(value)]
        for out in _paths_in(flags.get(name)):
            if out.is_file() and any(each.is_file() and each.samefile(out) for each in others):
                raise InputError("another flag names this file too", f"--{name}={out}", "name another file")


def _paths_in(value: object) -> list[Path]:
    if isinstance(value, Path):
        return [value]
    if isinstance(value, list | tuple):
        return [path for each in value for path in _paths_in(each)]
    return []


def check_all_local(value: object, where: str) -> None:
    """Applies `check_local` to a path, or to every path in a list; ignores other values."""
    if isinstance(value, os.PathLike):
        check_local(value, where)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for each in value:
            check_all_local(each, where)
