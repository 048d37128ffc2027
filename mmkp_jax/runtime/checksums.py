"""Checksums of the files in a folder: written once it is complete, verified before it is read.

CRC-32 detects every flipped bit and every damaged run of 32 bits; other damage goes undetected once in 2^32. It guards
against faults of disks, networks and copies, not against attacks.
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
"""Number of files read at a time: a network file system does not give one reader its full bandwidth."""


class Checksum(NamedTuple):
    """Size and CRC-32 of a file."""

    bytes: int
    crc32: int


def write_checksums(folder: Path) -> None:
    """Writes `checksums.json`, over all files in a folder and below it.

    Raises:
        OSError: a file cannot be read, or `checksums.json` cannot be written.
    """
    found = _hashed(folder, [each for each in _files(folder) if each != CHECKSUMS_FILE])
    write_bytes(folder / CHECKSUMS_FILE, _rendered(found))


def has_checksums(folder: Path) -> bool:
    """Whether a folder has checksums to verify."""
    return (folder / CHECKSUMS_FILE).is_file()


def find_damage(folder: Path, share: int = 0, shares: int = 1) -> str | None:
    """The first difference from the checksums, a missing or added file included; None where there is none.

    Hidden files that are not listed are ignored: file systems (`.nfs…`) and copying tools create them.

    Args:
        share: the index of this verifier, which reads only its part of the bytes.
        shares: the number of verifiers of the same folder.
    """
    try:
        content = (folder / CHECKSUMS_FILE).read_bytes()
        expected = _parsed(content, str(folder / CHECKSUMS_FILE))
    except OSError:
        return f"{CHECKSUMS_FILE} cannot be read"
    except InputError:
        expected = None
    if expected is None:
        return f"{CHECKSUMS_FILE} is not what was written"
    try:
        there = _files(folder)
        sizes = {name: (folder / name).stat().st_size for name in there if name != CHECKSUMS_FILE}
    except OSError as error:
        return f"its files cannot be listed ({error.strerror})"
    if missing := sorted(expected.keys() - sizes.keys()):
        return f"{_some(missing)} missing"
    if added := sorted(name for name in sizes.keys() - expected.keys() if not Path(name).name.startswith(".")):
        return f"{_some(added)} not written with it"
    if other := [name for name in sorted(expected) if sizes[name] != expected[name].bytes]:
        return f"{other[0]} has {sizes[other[0]]:,} bytes instead of {expected[other[0]].bytes:,}"
    try:
        found = _hashed(folder, _shares({name: each.bytes for name, each in expected.items()}, shares)[share])
    except OSError as error:
        return f"{Path(error.filename or CHECKSUMS_FILE).name} cannot be read ({error.strerror})"
    changed = [name for name in sorted(found) if found[name] != expected[name]]
    return f"the content of {_some(changed)} not what was written" if changed else None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1:,} more" * (len(names) > 1)
    return f"{names[0]}{more} {'are' if more else 'is'}"


def _files(folder: Path) -> list[str]:
    """Sorted paths of all files below a folder."""

    def stop(error: OSError) -> None:
        raise error

    walked = os.walk(folder, onerror=stop)
    return sorted(Path(top, name).relative_to(folder).as_posix() for top, _, names in walked for name in names)


def _shares(size_of: Mapping[str, int], shares: int) -> list[list[str]]:
    """The names divided into `shares` parts of about equal size, the same on every host."""
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
    """The content of `checksums.json`: one file a line, and a checksum of these lines."""
    listed = {name: f"{each.crc32:08x} {each.bytes}" for name, each in sorted(files.items())}
    own = f"{zlib.crc32(json.dumps(listed).encode()):08x}"
    return (json.dumps({"crc32": own, "files": listed}, indent=0) + "\n").encode()


def _parsed(content: bytes, where: str) -> dict[str, Checksum] | None:
    """Checksums by file; None where the content is not, byte for byte, what was written."""
    listed = parse_object(content, where).object("files")
    try:
        pairs = {name: listed.text(name).split(" ") for name in listed.content}
        files = {name: Checksum(int(size), int(crc, 16)) for name, (crc, size) in pairs.items()}
    except ValueError:  # a bad number, or an InputError for a wrong type
        return None
    return files if _rendered(files) == content else None
