"""A trainer in a process of its own, called by lines of JSON: `[method, *arguments]` in, `{"result": …}` out."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.trainers.job import Job

SIDES = ("ours", "theirs")


class Worker:
    """The other end of such a process.

    Args:
        name: what messages call it.
        root: the folder of its packages.
    """

    def __init__(self, side: str, folder: Path, job: Job, name: str = "", root: Path | None = None):
        root = root or Path(__file__).parents[2]
        command = [sys.executable, "-m", "benchmarks.trainers.worker", side, str(folder)]
        command += [job.size, job.dtype, str(job.posts), str(job.seed)]
        path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, "PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd=root, env=environment, text=True, **pipes)
        self._name = name or side

    def call(self, method: str, *arguments: Any) -> Any:
        """The method's result."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name}: the process ended in {method} with {self._process.wait()}")
        return json.loads(line)["result"]

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


class Workers(contextlib.AbstractContextManager):
    """Both sides, each started when it is first called; one at a time where the device cannot hold both."""

    def __init__(self, folder: Path, job: Job):
        self._folder, self._job, self._open = folder, job, {}

    def call(self, side: str, method: str, *arguments: Any) -> Any:
        """The method's result."""
        if side not in self._open:
            if not self._job.sizes.together:
                self._close()
            self._open[side] = Worker(side, self._folder, self._job)
        return self._open[side].call(method, *arguments)

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        for worker in self._open.values():
            worker.close()
        self._open.clear()


def serve(trainer: Any, answers: Any) -> None:
    """Answers calls until the input ends."""
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        answers.write(json.dumps({"result": getattr(trainer, method)(*arguments)}) + "\n")
        answers.flush()


def main() -> None:
    side, folder, size, dtype, posts, seed = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    job = Job(size, dtype, int(posts), int(seed))
    if side == "ours":
        from benchmarks.trainers.ours import Ours as Trainer
    else:
        from benchmarks.trainers.theirs import Theirs as Trainer
    _check_packages()
    serve(Trainer(folder, job), answers)


def _check_packages() -> None:
    """Ends the process if a module of the package is another checkout's, where this one does not have it."""
    files = {name: module.__file__ for name, module in sys.modules.items() if name.startswith("mmkp_jax.")}
    strays = [name for name, file in files.items() if file and not Path(file).is_relative_to(Path.cwd())]
    if strays:
        raise SystemExit(f"this revision has no {', '.join(sorted(strays))}")


if __name__ == "__main__":
    main()
