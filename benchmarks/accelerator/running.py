"""Parts: programs in processes of their own, each with a time limit; none ends another."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accelerator.notes import finite

ROOT = Path(__file__).parents[2]

TAIL = 3000
"""Characters of a part's output that are kept, from its end."""


class Part(NamedTuple):
    """A program that writes its findings into a JSON file."""

    name: str
    module: str
    flags: tuple[str, ...]
    """Its flags, without the one that names the file."""
    seconds: float
    """Its time limit."""
    file_flag: str = "--notes"
    environment: Mapping[str, str] = {}


class Started:
    """A part that was started.

    Args:
        folder: the folder of its files.
    """

    def __init__(self, part: Part, folder: Path):
        self.part, self._file, self._log = part, folder / f"{part.name}.json", folder / f"{part.name}.log"
        command = [sys.executable, "-m", part.module, *part.flags, f"{part.file_flag}={self._file}"]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self._start = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path, **part.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, seconds: float) -> dict[str, Any]:
        """Waits until the part ends, for `seconds` at most; then it is killed, with all that it started.

        Returns:
            `status` (`done`, `failed`, `out of time`), `seconds`, `found`, and `output`, the end of what it printed.
        """
        try:
            code = self._process.wait(max(0.0, seconds))
            status = "failed" if code else "done"
        except subprocess.TimeoutExpired:
            status = "out of time"
        taken = time.perf_counter() - self._start
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        output = self._log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
        return {"status": status, "seconds": taken, "found": finite(self._found()), "output": output}

    def _found(self) -> dict[str, Any]:
        try:
            return json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}


def run_parts(parts: list[Part], meanwhile: list[Part], seconds: float, folder: Path) -> dict[str, dict[str, Any]]:
    """Runs `parts` in turn, and those of `meanwhile` at the same time, within `seconds` together; results by name."""
    end = time.perf_counter() + seconds
    aside = [Started(part, folder) for part in meanwhile]
    done: dict[str, dict[str, Any]] = {}
    for part in parts:
        left = end - time.perf_counter()
        if left < min(10.0, part.seconds):
            done[part.name] = {"status": "not started", "seconds": 0.0, "found": {}, "output": "no time was left"}
        else:
            done[part.name] = Started(part, folder).finish(min(part.seconds, left))
        print(f"{part.name}: {done[part.name]['status']}, {done[part.name]['seconds']:.0f} s", flush=True)
    for started in aside:
        name = started.part.name
        done[name] = started.finish(end - time.perf_counter())
        print(f"{name}: {done[name]['status']}, {done[name]['seconds']:.0f} s", flush=True)
    return done
