"""Features of a frozen vision tower on disk: a file an image, written once, read in every epoch in place of the image.

S slots of the first kind that an image takes in a row, X numbers of a slot.

A file is named by the hash of the image's own file, in a folder for each tower, processor and dtype
(`training.feature_cache`), so that runs, strategies and datasets share what they have in common. It holds a header and
the numbers, with a checksum over both. Numbers in bfloat16, which numpy lacks, are kept as their bits.
"""

import dataclasses
import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.atomic import replacing

HEADER = struct.Struct("<8sIIIc3x")
"""Magic bytes, CRC-32 of all that follows it, slots, numbers of a slot, and numpy's letter of the dtype."""

MAGIC = b"mmkpfeat"

_BEGINNING = struct.calcsize("<8sI")
"""Bytes before those that the checksum covers."""

SUFFIX = ".features"

HINT = "delete it: the run that is started next computes it again"


class FeatureKind(NamedTuple):
    """What a slot of the first kind holds."""

    width: int
    """Numbers."""
    dtype: str
    """float32, or uint16 for the bits of bfloat16."""

    @property
    def bytes(self) -> int:
        """Bytes of a slot."""
        return self.width * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class FeatureStore:
    """The features of one tower, under one processor, in one dtype."""

    folder: Path
    kind: FeatureKind

    def read(self, image: bytes, slots: int) -> np.ndarray:
        """The features of an image, as `read_named` returns them; `image` is its file."""
        return self.read_named(digest_of(image), slots)

    def read_named(self, digest: str, slots: int) -> np.ndarray:
        """The features of an image, [S, X].

        Args:
            digest: `digest_of` the image's file.
            slots: S, by its layout.

        Raises:
            InputError: they are not there, damaged, or of another image, tower or dtype.
        """
        file = self._file(digest)
        try:
            content = file.read_bytes()
        except OSError as error:
            what = f"the features of an image cannot be read ({error.strerror or error})"
            raise InputError(what, str(file), "start the run again: it computes what is missing") from None
        if len(content) < HEADER.size or content[: len(MAGIC)] != MAGIC:
            raise InputError("this is no file of features", str(file), HINT)
        _, checksum, *shape, letter = HEADER.unpack_from(content)
        if zlib.crc32(memoryview(content)[_BEGINNING:]) != checksum:
            raise InputError("these features are damaged: their checksum is another", str(file), HINT)
        dtype = np.dtype(self.kind.dtype)
        if shape != [slots, self.kind.width] or letter != dtype.char.encode():
            found = f"{shape[0]:,} x {shape[1]:,} of {letter.decode()!r}"
            what = f"the features are {found}, not {slots:,} x {self.kind.width:,} of {dtype.char!r}"
            raise InputError(what, str(file), HINT)
        return np.frombuffer(content, dtype, offset=HEADER.size).reshape(shape)

    def write(self, digest: str, values_SX: np.ndarray) -> None:
        """Writes an image's features atomically; several processes may write the same.

        Raises:
            OSError: they cannot be written.
        """
        values_SX = np.ascontiguousarray(values_SX, np.dtype(self.kind.dtype))
        letter = values_SX.dtype.char.encode()
        covered = HEADER.pack(MAGIC, 0, *values_SX.shape, letter)[_BEGINNING:]
        checksum = zlib.crc32(values_SX.data.cast("B"), zlib.crc32(covered))
        with replacing(self._file(digest), unique=True) as out:
            out.write(HEADER.pack(MAGIC, checksum, *values_SX.shape, letter))
            out.write(values_SX.data.cast("B"))

    def present(self) -> set[str]:
        """Digests of the images whose features are there; none is read."""
        found: set[str] = set()
        if self.folder.is_dir():
            for part in os.scandir(self.folder):
                if part.is_dir():
                    found |= {each.name.removesuffix(SUFFIX) for each in os.scandir(part) if is_complete(each.name)}
        return found

    def _file(self, digest: str) -> Path:
        return Path(self.folder) / digest[:2] / f"{digest}{SUFFIX}"


def is_complete(name: str) -> bool:
    """Whether a file of this name is one of features, not one that is still being written."""
    return name.endswith(SUFFIX) and not name.startswith(".")


def digest_of(image: bytes) -> str:
    """Hash of an image's file, as 32 hexadecimal digits."""
    return hashlib.blake2b(image, digest_size=16).hexdigest()
