"""Output that any terminal takes, whatever its encoding."""

import sys


def print_anywhere() -> None:
    """Lets stdout and stderr print what their encoding lacks as escapes (`\\u03b3`), in place of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
