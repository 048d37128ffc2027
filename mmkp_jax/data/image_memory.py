"""Memory that decoding an image takes, known from its header; at most `limits.IMAGE` at a time in a process.

Bytes per pixel are measured with Pillow 12 and 13 (`benchmarks/image_memory.py`); unknown formats count high.
"""

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Iterator

from PIL import Image

from mmkp_jax.runtime.limits import IMAGE

_ONE_BYTE = {"1", "L", "P"}
_RGB_BYTES = 4
"""Pillow holds a pixel of RGB in four bytes."""

_BY_ROWS = {"PNG", "GIF", "BMP", "DIB", "PPM", "PCX", "TGA", "IM", "JPEG", "MPO", "TIFF", "MSP", "XBM", "SPIDER"}
"""Formats that are decoded straight into the image."""
_CODEC_BYTES = {"WEBP": 16, "AVIF": 16, "JPEG2000": 20}
"""Bytes per pixel, image included, of formats that a library decodes as a whole."""

_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_HEIGHT = 278, 322, 323  # TIFF


def held_bytes(image: Image.Image) -> int:
    """Size in bytes of the image in Pillow's memory."""
    width, height = image.size
    pixel = 1 if image.mode in _ONE_BYTE else 2 if image.mode.startswith("I;16") else 4
    return width * height * pixel


def decoding_bytes(image: Image.Image, *, turned: bool = False) -> int:
    """Peak memory in bytes from an opened image, not loaded yet, to RGB.

    Args:
        turned: whether it is turned upright, which takes a copy.
    """
    pixels, held = image.width * image.height, held_bytes(image)
    loading, kept = _loading_bytes(image, held), _CODEC_BYTES.get(image.format or "", 0) * pixels or held
    as_grey = image.mode[0] in "IF"
    converting = max(held + pixels, pixels * (1 + _RGB_BYTES)) if as_grey else held + pixels * _RGB_BYTES
    converting = 0 if image.mode == "RGB" and not image.has_transparency_data else converting
    return max(loading, kept + held if turned else 0, converting)


def _loading_bytes(image: Image.Image, held: int) -> int:
    kind, (width, height) = image.format or "", image.size
    if kind in _CODEC_BYTES:
        return _CODEC_BYTES[kind] * width * height
    if kind not in _BY_ROWS:
        return 4 * held
    if kind in ("JPEG", "MPO") and image.info.get("progressive"):
        return held + 2 * _jpeg_samples(image)
    if kind == "TIFF":
        tags = getattr(image, "tag_v2", {})
        tile = _number(tags, _TILE_WIDTH) * _number(tags, _TILE_HEIGHT)
        strip = min(_number(tags, _ROWS_PER_STRIP) or height, height) * width
        return held + 8 * (tile or strip)
    return held


def _jpeg_samples(image: Image.Image) -> int:
    """Samples of all channels: those of a progressive file are in memory, two bytes each, until its last scan."""
    channels = [(across, down) for _, across, down, _ in getattr(image, "layer", ())] or [(1, 1)] * len(
        image.getbands()
    )
    most = max(1, max(across for across, _ in channels) * max(down for _, down in channels))
    return image.width * image.height * sum(across * down for across, down in channels) // most


def _number(tags: object, tag: int) -> int:
    value = tags.get(tag, 0)
    return value if isinstance(value, int) else 0


LARGE = 64 << 20
"""Bytes of an image above which freed memory is returned to the system at once."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


@functools.cache
def _give_back_at_once() -> None:
    """Has the C library return pieces from 4 MB on when freed: otherwise glibc keeps tens of MB for each thread."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 4 << 20)
        mallopt(_TRIM_THRESHOLD, 8 << 20)


class Budget:
    """A limit on the bytes that the threads of a process take together."""

    def __init__(self):
        self._taken, self._changed = 0, threading.Condition()

    @contextlib.contextmanager
    def holding(self, amount: int) -> Iterator[None]:
        """Takes `amount` while the block runs, once `limits.IMAGE` has room for it or no other thread takes any.

        Blocks of one thread are not nested: the inner one could wait for the outer one.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + amount <= IMAGE.bytes())
            self._taken += amount
        try:
            if amount > LARGE:
                _give_back_at_once()
            yield
        finally:
            with self._changed:
                self._taken -= amount
                self._changed.notify_all()


BUDGET = Budget()
"""The memory budget of all images that this process decodes."""
