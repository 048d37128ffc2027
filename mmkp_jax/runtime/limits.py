"""How much of what comes from outside is taken into memory; a variable of the environment sets each limit."""

import os
from typing import NamedTuple

from mmkp_jax.errors import InputError

VARIABLE = "MMKP_MAX_"


class Limit(NamedTuple):
    """A number of bytes that one thing from outside may take."""

    what: str
    variable: str
    default: int

    def bytes(self) -> int:
        """The limit in force.

        Raises:
            InputError: the environment sets it to something other than a whole number from 1 on.
        """
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        if not (text.isascii() and text.isdecimal() and 0 < len(text) < 19 and int(text) > 0):
            raise InputError(f"{text[:40]!r} is no number of bytes", self.variable, "give a whole number, or unset it")
        return int(text)

    def message(self, size: int | None = None) -> str:
        """What is wrong with a thing of `size` bytes (None: not known, but more), without its place and a fix."""
        found = "more than" if size is None else f"{size:,} bytes, more than"
        return f"{self.what} has {found} {self.bytes():,} bytes"

    def error(self, where: str, size: int | None = None) -> InputError:
        """The one line about a thing that is larger than the limit."""
        return InputError(self.message(size), where, self.hint())

    def hint(self) -> str:
        """How to let larger ones through."""
        return f"make it smaller, or set {self.variable} to a larger number of bytes"


LINE = Limit("a line", f"{VARIABLE}LINE_BYTES", 16 << 20)
"""Of any file that is read line by line, after unpacking."""

FILE = Limit("the file", f"{VARIABLE}FILE_BYTES", 1 << 30)
"""Of any text file that is read as a whole."""

ANSWER = Limit("the answer", f"{VARIABLE}ANSWER_BYTES", 64 << 20)
"""Of one answer of an endpoint, after unpacking."""

IMAGE = Limit("the image being decoded", f"{VARIABLE}IMAGE_BYTES", 432 << 20)
"""Of an image's file, of one image while it is decoded, and of all that a process decodes at a time."""
