"""Reports a run to the trackers of `config.report_to`, each step once, whatever is killed and resumed.

`metrics.jsonl` is the whole truth, and a tracker is sent its lines. The last step that a tracker was sent is in a file,
which a resumed run continues from: what a tracker lacks (it failed, or was not named before) is sent when the run
starts, and what it has already is not sent again.
"""

import contextlib
import importlib
import json
import math
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.fields import leaves
from mmkp_jax.runtime.json_files import read_object
from mmkp_jax.runtime.lines import lines_of
from mmkp_jax.training.trackers.adapter import Adapter, TrackedRun

FOLDER = "trackers"
"""The trackers' folder in a work directory."""

ARTIFACTS = ("config.json", "environment.json", "results.json", "results.txt", "report.html")
"""Files of the work directory that go along at a run's end."""


class Trackers(contextlib.AbstractContextManager):
    """The trackers of a run. One that raises is named in a line and left out until the next start.

    Args:
        names: modules of this folder.
        workdir: the run's work directory.
    """

    def __init__(self, names: Sequence[str], workdir: Path):
        self._names, self._workdir = tuple(dict.fromkeys(names)), workdir
        self._sent: dict[str, Sent] = {}
        self._adapters: dict[str, Adapter] = {}
        self.lost: set[str] = set()
        """Trackers that were left out since the start."""
        self._is_complete = False

    def start(self, config: Mapping[str, Any]) -> None:
        """Begins the run at each tracker, or resumes it; on the host that writes, when it has the work directory."""
        for name in self._names:
            folder = self._workdir / FOLDER
            sent = self._sent[name] = Sent(folder / f"{name}.txt")
            run = TrackedRun(sent.id, self._workdir.absolute().name, folder / name, dict(leaves(config)))
            self._try(name, lambda name=name, run=run: self._begin(name, run))

    def catch_up(self) -> None:
        """Sends the lines of `metrics.jsonl` that a tracker lacks."""
        file = self._workdir / "metrics.jsonl"
        if not self._adapters or not file.exists():
            return
        for line in lines_of(file):
            values = json.loads(line.content)
            self.log(values.pop("step"), values)

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Sends a step's values to each tracker that was not sent it; None, and what is not finite, is left out."""
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        for name in list(self._adapters):
            sent, before = self._sent[name], self._sent[name].step
            if before < step:
                sent.record(step=step)  # first: after a kill in between, a point is missing, and none is there twice
                if not self._try(name, lambda adapter=self._adapters[name]: adapter.log(step, finite)):
                    sent.record(step=before)

    def summarise(self, step: int) -> None:
        """Sends the final scores in `results.json`, and the run's files, unless those of this step were sent."""
        if not self._adapters:
            return
        scores = dict(_scores(read_object(self._workdir / "results.json").content))
        files = [file for each in ARTIFACTS if (file := self._workdir / each).exists()]
        for name in list(self._adapters):
            sent, before = self._sent[name], self._sent[name].summary
            if before != step:
                sent.record(summary=step)
                if not self._try(name, lambda adapter=self._adapters[name]: adapter.summarise(step, scores, files)):
                    sent.record(summary=before)
        self._is_complete = True

    def __exit__(self, *_: object) -> None:
        for name, adapter in list(self._adapters.items()):
            self._try(name, lambda adapter=adapter: adapter.close(is_complete=self._is_complete))
        for sent in self._sent.values():
            sent.close()

    def _begin(self, name: str, run: TrackedRun) -> None:
        self._adapters[name] = importlib.import_module(f"{__package__}.{name}").begin(run)

    def _try(self, name: str, call: Callable[[], None]) -> bool:
        """Calls a tracker; False where it raised, which a line says, and it is left out from then on."""
        try:
            call()
            return True
        except Exception as error:  # a tracker's code may raise anything, and the run is worth more than its curves
            self._adapters.pop(name, None)
            self.lost.add(name)
            reason = for_terminal(" ".join(f"{type(error).__name__}: {error}".split())[:300])
            tqdm.write(
                f"{name} is left out from here on ({reason}); the run continues, metrics.jsonl has everything, and its "
                "next start sends what is missing",
                file=sys.stderr,
            )
            return False


class Sent:
    """What a tracker was sent, in a file of one line of fixed width: the run's id, the last step, the summary's step.

    It is written in place, so that a kill leaves the old or the new line.
    """

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.read_text(encoding="ascii").split() if file.exists() else []
        self.id, step, summary = before if len(before) == 3 else (uuid.uuid4().hex[:8], "0", "-1")
        self.step, self.summary = int(step), int(summary)
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
        self.record()

    def record(self, *, step: int | None = None, summary: int | None = None) -> None:
        """Writes a new last step, or the step whose summary is sent."""
        self.step = self.step if step is None else step
        self.summary = self.summary if summary is None else summary
        os.pwrite(self._file, f"{self.id} {self.step:012d} {self.summary:012d}\n".encode("ascii"), 0)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


def _scores(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of `results.json` by dotted name, such as `test/all/f1@1`."""
    for name, value in leaves(results, "test"):
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield name.replace(".", "/"), float(value)
