"""The errors a user should see: what is wrong, where, and how to fix it; and the exit statuses of lost runs."""

import difflib
from collections.abc import Iterable, Sequence

MAX_LENGTH = 1500
"""Characters that a line has for what is wrong: names from files can be of any length."""


class InputError(ValueError):
    """A mistake in what the user gave, as one line: `where: what; hint`."""

    parts: tuple["InputError", ...] = ()
    """The mistakes that this one lists, where it lists several."""

    def __init__(self, what: str, where: str, hint: str):
        super().__init__(what, where, hint)  # all three, so that it pickles its way out of a worker
        self.what, self.where, self.hint = what, where, hint

    def __str__(self) -> str:
        what = self.what if len(self.what) <= MAX_LENGTH else self.what[: MAX_LENGTH - 1] + "…"
        lines = f"{self.where}: {what}; {self.hint}".splitlines()
        line = " ".join(line.strip() for line in lines if line.strip())
        return line.encode("utf-8", "backslashreplace").decode("utf-8")  # half a character is none to print


def all_of(errors: Sequence[InputError], hint: str) -> InputError:
    """One error that reports all the given ones; a single one is returned as it is.

    Args:
        hint: how to fix them all.
    """
    parts = [part for error in errors for part in error.parts or (error,)]
    if len(parts) == 1:
        return parts[0]
    lines = [f"{where}: {what}" + f" ({fix})" * (fix != hint) for what, where, fix in (part.args for part in parts)]
    whole = InputError("; ".join(lines), f"{len(parts)} mistakes", hint)
    whole.parts = tuple(parts)
    return whole


AGAIN = 75
"""The exit status of a run that was asked to stop, and is saved: launchers start it again (EX_TEMPFAIL)."""


LOST = 76
"""The exit status of a run that lost a process, a host or a step's end: also to be started again, a few times."""


class LostError(RuntimeError):
    """A process or a machine that the run needs is gone, in one line; a run that is started again resumes."""


class BusyError(RuntimeError):
    """What the run needs is in use on another machine, in one line; a launcher tries again later (75)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the known name most like `name`, whatever its case.

    Where none is like it, returns the names themselves, ` (known: a, b)`; without names, an empty string.
    """
    by_folded = {each.casefold(): each for each in sorted(known)}
    if close := difflib.get_close_matches(name.casefold(), by_folded, n=1):
        return f" (did you mean {by_folded[close[0]]!r}?)"
    return f" (known: {', '.join(by_folded.values())})" if by_folded else ""
