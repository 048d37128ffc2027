"""Stand-ins for the executables that launchers call: each notes its calls, and answers as a test has it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

PROGRAM = ("--config=configs/dyncot.py:model=qwen2_5_vl_3b", "--workdir=/mnt/shared/runs/3b")

NOTES = """#!{python} -S
import json, os, pathlib, subprocess, sys
folder, name, words = pathlib.Path({folder!r}), {name!r}, sys.argv[1:]
with open(folder / "calls.jsonl", "a") as calls:
    print(json.dumps([name, *words]), file=calls)

def answer(kind):  # the next one; the last one again and again
    file = folder / f"{{kind}}.json"
    answers = json.loads(file.read_text())
    if len(answers) > 1:
        file.write_text(json.dumps(answers[1:]))
    return answers[0]

"""


class Fakes:
    """A folder of them, first on the path of what is launched."""

    def __init__(self, folder: Path):
        self.folder = folder

    def make(self, name: str, body: str) -> None:
        """An executable: Python after `NOTES`, with `words` and `answer(kind)`."""
        file = self.folder / name
        file.write_text(NOTES.format(python=sys.executable, folder=str(self.folder), name=name) + body)
        file.chmod(0o755)

    def answers(self, kind: str, *answers: object) -> None:
        """What `answer(kind)` gives, in order."""
        (self.folder / f"{kind}.json").write_text(json.dumps(answers))

    def calls(self) -> list[list[str]]:
        """Every call so far: name and arguments."""
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def environment(self, **variables: str) -> dict[str, str]:
        """With the fakes first on the path."""
        return {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", **variables}

    def run(self, launcher: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        """Runs `launch/LAUNCHER` to its end."""
        line = [ROOT / "launch" / launcher, *arguments]
        return subprocess.run(line, env=self.environment(**variables), capture_output=True, text=True, timeout=240)

    def popen(self, launcher: str, *arguments: str, **variables: str) -> subprocess.Popen:
        """Starts it, in a process group of its own."""
        line = [ROOT / "launch" / launcher, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(line, env=self.environment(**variables), start_new_session=True, **pipes)
