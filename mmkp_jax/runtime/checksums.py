"""Checksums of the files in a folder: written once it is complete, verified before it is read.

CRC-32 finds every single flipped bit and every damaged stretch of 32 bits; other damage passes once in 2^32. It guards
against disks, networks and copies, not against people.
"""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.atomic import write_bytes
from mmkp_jax.runtime.json_files import parse_object

CHECKSUMS_FILE = "checksums.json"
BLOCK_BYTES = 4 << 20
THREADS = 8
"""Files that are read at a time: a network's file system gives one reader only a part of what it can."""


class Checksum(NamedTuple):
    """What a file held."""

    bytes: int
    crc32: int


def write_checksums(folder: Path) -> None:
    """Writes `checksums.json` of all files in a folder and below it.

    Raises:
        OSError: a file cannot be read, or this one not written.
    """
    found = _hashed(folder, [each for each in _files(folder) if each != CHECKSUMS_FILE])
    write_bytes(folder / CHECKSUMS_FILE, _rendered(found))


def has_checksums(folder: Path) -> bool:
    """Whether a folder can be verified."""
    return (folder / CHECKSUMS_FILE).is_file()


def find_damage(folder: Path, share: int = 0, shares: int = 1) -> str | None:
    """What differs from the checksums: None where nothing does; also where a file is missing, or was added.

    Hidden files that are not listed are passed over: file systems make them (`.nfs…`), and what copies folders does.

    Args:
        share: of several that verify the same folder, which this one is: it reads its part of the bytes alone.
        shares: how many they are.
    """
    try:
        content = (folder / CHECKSUMS_FILE).read_bytes()
        told = _parsed(content, str(folder / CHECKSUMS_FILE))
    except OSError:
        return f"{CHECKSUMS_FILE} cannot be read"
    except InputError:
        told = None
    if told is None:
        return f"{CHECKSUMS_FILE} is not what was written"
    try:
        there = _files(folder)
        sizes = {name: (folder / name).stat().st_size for name in there if name != CHECKSUMS_FILE}
    except OSError as error:
        return f"its files cannot be listed ({error.strerror})"
    if missing := sorted(told.keys() - sizes.keys()):
        return f"{_some(missing)} missing"
    if added := sorted(name for name in sizes.keys() - told.keys() if not Path(name).name.startswith(".")):
        return f"{_some(added)} not written with it"
    if other := [name for name in sorted(told) if sizes[name] != told[name].bytes]:
        return f"{other[0]} has {sizes[other[0]]:,} bytes instead of {told[other[0]].bytes:,}"
    try:
        found = _hashed(folder, _shares({name: each.bytes for name, each in told.items()}, shares)[share])
    except OSError as error:
        return f"{Path(error.filename or CHECKSUMS_FILE).name} cannot be read ({error.strerror})"
    changed = [name for name in sorted(found) if found[name] != told[name]]
    return f"the content of {_some(changed)} not what was written" if changed else None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1:,} more" * (len(names) > 1)
    return f"{names[0]}{more} {'are' if more else 'is'}"


def _files(folder: Path) -> list[str]:
    """Paths below a folder, of all that is no folder, sorted."""

    def stop(error: OSError) -> None:
        raise error

    walked = os.walk(folder, onerror=stop)
    return sorted(Path(top, name).relative_to(folder).as_posix() for top, _, names in walked for name in names)


def _shares(size_of: Mapping[str, int], shares: int) -> list[list[str]]:
    """The names in so many parts of about as many bytes each, the same wherever this is computed."""
    parts: list[list[str]] = [[] for _ in range(shares)]
    taken = [0] * shares
    for name in sorted(size_of, key=lambda name: (-size_of[name], name)):
        least = taken.index(min(taken))
        parts[least].append(name)
        taken[least] += size_of[name] + 1
    return parts


def _hashed(folder: Path, names: Sequence[str]) -> dict[str, Checksum]:
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _hash(folder / name), names), strict=True))


def _hash(file: Path) -> Checksum:
    block, size, crc = memoryview(bytearray(BLOCK_BYTES)), 0, 0
    with file.open("rb", buffering=0) as opened:
        while read := opened.readinto(block):
            crc = zlib.crc32(block[:read], crc)
            size += read
    return Checksum(size, crc)


def _rendered(files: Mapping[str, Checksum]) -> bytes:
    """One file a line, and a checksum of these lines."""
    told = {name: f"{each.crc32:08x} {each.bytes}" for name, each in sorted(files.items())}
    own = f"{zlib.crc32(json.dumps(told).encode()):08x}"
    return (json.dumps({"crc32": own, "files": told}, indent=0) + "\n").encode()


def _parsed(content: bytes, where: str) -> dict[str, Checksum] | None:
    """The files; None where the content is not, byte for byte, what was written."""
    told = parse_object(content, where).object("files")
    try:
        pairs = {name: told.text(name).split(" ") for name in told.content}
        files = {name: Checksum(int(size), int(crc, 16)) for name, (crc, size) in pairs.items()}
    except ValueError:  # of numbers, and the InputError of another type
        return None
    return files if _rendered(files) == content else None
