"""Limits on the memory that external input may take; an environment variable sets each."""

import os
from typing import NamedTuple

from mmkp_jax.errors import InputError

VARIABLE = "MMKP_MAX_"


class Limit(NamedTuple):
    """A limit in bytes on one piece of external input."""

    what: str
    variable: str
    default: int

    def bytes(self) -> int:
        """The current limit.

        Raises:
            InputError: the environment variable is not a whole number from 1.
        """
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        if not (text.isascii() and text.isdecimal() and 0 < len(text) < 19 and int(text) > 0):
            raise InputError(
                f"{text[:40]!r} is not a number of bytes", self.variable, "give a whole number, or unset it"
            )
        return int(text)

    def message(self, size: int | None = None) -> str:
        """What is wrong with input of `size` bytes (None: unknown, but over the limit), without its place and a fix."""
        found = "more than" if size is None else f"{size:,} bytes, more than"
        return f"{self.what} has {found} {self.bytes():,} bytes"

    def error(self, where: str, size: int | None = None) -> InputError:
        """The error for input over the limit."""
        return InputError(self.message(size), where, self.hint())

    def hint(self) -> str:
        """How to fix input over the limit."""
        return f"make it smaller, or set {self.variable} to a larger number of bytes"


LINE = Limit("a line", f"{VARIABLE}LINE_BYTES", 16 << 20)
"""Limit on a line of any file that is read line by line, after decompression."""

FILE = Limit("the file", f"{VARIABLE}FILE_BYTES", 1 << 30)
"""Limit on any text file that is read as a whole."""

ANSWER = Limit("the answer", f"{VARIABLE}ANSWER_BYTES", 64 << 20)
"""Limit on one response of an endpoint, after decompression."""

IMAGE = Limit("the image being decoded", f"{VARIABLE}IMAGE_BYTES", 432 << 20)
"""Limit on an image file, on one image while it is decoded, and on all that a process decodes at a time."""
