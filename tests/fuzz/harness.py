"""Feeds damaged inputs to one reader, and says what became of each: taken, refused in one line, or a failure."""

import contextlib
import io
import random
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmkp_jax.errors import InputError
from tests.fuzz.mutate import mutated

SECONDS = 20.0
"""For one input, whatever else the machine does meanwhile; a reader that takes longer hangs."""

SHOWN = 3
"""Failures of a target that are kept; the others are counted."""


class Target(NamedTuple):
    """A reader of something that comes from outside."""

    name: str
    corpus: Callable[[Path], Sequence[bytes]]
    """Makes whole inputs, in a folder of its own that stays while the target is fed."""
    feed: Callable[[bytes, Path], object]
    """Has the reader read one input to its end, given that folder."""
    refusals: tuple[type[Exception], ...] = (InputError,)
    """What the reader may raise."""
    dress: Callable[[bytes, random.Random], bytes] | None = None
    """Applied to each damaged input (packs it, say)."""
    share: float = 1.0
    """Of as many inputs as other targets get: less for a slow reader."""


class Failure(NamedTuple):
    """An input after which something else came than a result or a refusal."""

    number: int
    data: bytes
    what: str


class Outcome(NamedTuple):
    """What became of a target's inputs."""

    inputs: int
    refused: int
    failed: int
    failures: list[Failure]
    slowest: float
    """Seconds."""


class Hung(BaseException):
    """The reader took longer than `SECONDS`."""


def fuzz(target: Target, numbers: range, seed: int = 0) -> Outcome:
    """Feeds the inputs of these numbers; each is a function of the target, the seed and its number alone."""
    refused = failed = 0
    failures: list[Failure] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder, _alarm():
        root = Path(folder)
        corpus = target.corpus(root)
        for number in numbers:
            data = input_of(target, corpus, number, seed)
            started = time.perf_counter()
            what = _fed(target, data, root)
            slowest = max(slowest, time.perf_counter() - started)
            refused += what == ""
            if what:
                failed += 1
                if len(failures) < SHOWN:
                    failures.append(Failure(number, data, what))
    return Outcome(len(numbers), refused, failed, failures, slowest)


def input_of(target: Target, corpus: Sequence[bytes], number: int, seed: int = 0) -> bytes:
    """One damaged input."""
    rng = random.Random(f"{target.name} {seed} {number}")
    data = mutated(corpus, rng)
    return target.dress(data, rng) if target.dress else data


def _fed(target: Target, data: bytes, root: Path) -> str | None:
    """None where the input was taken, an empty text where it was refused, else what went wrong."""
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            target.feed(data, root)
    except target.refusals as error:
        return _fault_of(error)
    except Hung:
        return f"not read within {SECONDS:g} s"
    except BaseException as error:  # a panic of a library in Rust is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return "".join(traceback.format_exception(error)[-4:])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def _fault_of(error: Exception) -> str:
    """What is wrong with a refusal: it must be one line that any UTF-8 terminal takes, and not a long one."""
    line = str(error)
    try:
        line.encode()
    except UnicodeEncodeError:
        return f"a refusal with half a character: {line!r}"
    if any(each in line for each in "\n\r\x1b\x00"):
        return f"a refusal with control characters: {line!r}"
    return f"a refusal of {len(line):,} characters: {line[:200]!r}" if len(line) > 2000 else ""


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def hung(*_: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, hung)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
