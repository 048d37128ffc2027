"""The modes of complete runs: answers with a chain of thought, without one, by the model's choice, and the oracle's.

`benchmarks.strategies` runs these predictions of the test split after the runs, and prints their tables. They are in a
run's folder, `predictions/{direct,think}-{step}.jsonl`: what is there is kept, and a stopped one resumes.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmkp_jax.data.prompts import Mode
from mmkp_jax.evaluation.files import read_posts, read_train_keyphrases
from mmkp_jax.evaluation.modes import Modes, measure_modes
from mmkp_jax.evaluation.significance import RESAMPLES
from mmkp_jax.evaluation.switches import Switches, count_switches
from mmkp_jax.evaluation.systems import System, read_system
from mmkp_jax.pages.modes import HEADER, NOTES, mode_rows, percent
from mmkp_jax.pages.report.runs import SPLIT, ReportRun
from mmkp_jax.pages.tables import Table
from mmkp_jax.runtime.needs import DECIDES
from mmkp_jax.runtime.terminal import without_repeats

if TYPE_CHECKING:
    from benchmarks.scored import Result

FORCED: tuple[Mode, ...] = ("direct", "think")
"""The modes that a run's own evaluation does not have."""

NOTHING = "–"


class ModeJob(NamedTuple):
    """The predictions of a complete run with each of `FORCED`, by one command."""

    run: Path
    """The run's work directory."""
    step: int
    """The step that was evaluated."""
    model: str
    """The run and its step, as `predict` takes them."""
    dataset: Path
    posts: int

    @property
    def name(self) -> str:
        """Its name on the terminal."""
        return f"{self.run.name}, {' and '.join(FORCED)}"

    @property
    def workdir(self) -> Path:
        """By which its log is named."""
        return self.run / "predictions" / f"modes-{self.step}"

    @property
    def files(self) -> dict[Mode, Path]:
        """The predictions file of each mode."""
        return {mode: self.run / "predictions" / f"{mode}-{self.step}.jsonl" for mode in FORCED}

    @property
    def complete(self) -> bool:
        """Whether every post is predicted with each."""
        return all(file.exists() and file.read_bytes().count(b"\n") == self.posts for file in self.files.values())

    def command(self) -> list[str]:
        """The command that starts or resumes it."""
        posts = (f"--data={self.dataset}", f"--split={SPLIT}")
        out = self.run / "predictions" / f"{{mode}}-{self.step}.jsonl"
        flags = (f"--model={self.model}", *posts, f"--mode={','.join(FORCED)}", f"--out={out}")
        return [sys.executable, "-m", "mmkp_jax.predict", *flags]


def modes_of(run: ReportRun, dataset: Path) -> ModeJob:
    """The predictions of a run with each of `FORCED`, by the weights that were evaluated."""
    best = run.path / "best" / str(run.step)
    at = "" if run.strategy == "zeroshot" else "@best" if best.is_dir() else f"@{run.step}"
    return ModeJob(run.path, run.step, f"{run.path}{at}", dataset, len(run.answers))


def mode_tables(results: Mapping[str, "Result"]) -> list[Table]:
    """The table of the systems whose runs all have their predictions, and that of the switches; none without rows."""
    measured = {result.name: read_modes(result) for result in results.values()}
    rows = [(name, *row) for name, modes in measured.items() if modes for row in mode_rows(modes)]
    switches = {
        result.name: [count for run in result.runs if (count := switches_of(run))] for result in results.values()
    }
    tables = [_switches_table({name: found for name, found in switches.items() if found})]
    if rows:
        notes = (*NOTES, f"means over runs; the interval: {RESAMPLES:,} resamples of the test posts and of runs")
        tables.insert(0, Table("Modes", ("", "group", *HEADER), without_repeats(rows), notes, left=2))
    return [table for table in tables if table.rows]


def read_modes(result: "Result", resamples: int = RESAMPLES) -> Modes | None:
    """The measures of a system's runs; None while predictions are missing."""
    forced = read_forced(result)
    return forced and measure_modes({"auto": result.scored, **forced}, resamples)


def read_forced(result: "Result") -> dict[Mode, System] | None:
    """A system's runs with each of `FORCED`; None while predictions are missing."""
    jobs = [modes_of(run, result.dataset) for run in result.runs]
    if not all(job.complete for job in jobs):
        return None
    posts, seen = read_posts(result.dataset), read_train_keyphrases(result.dataset)
    return {mode: read_system([job.files[mode] for job in jobs], posts, seen, None) for mode in FORCED}


def switches_of(run: ReportRun) -> Switches | None:
    """The switches of a run's posts, by any decision; None where its losses do not say which target each post took."""
    losses = run.arrays.get("losses", {})
    if (
        run.strategy not in DECIDES.only
        or not {"on_cot_N", "has_cot_N"} <= losses.keys()
        or not losses["has_cot_N"].any()
    ):
        return None
    if (losses["on_cot_N"] < 0).any():
        return None
    return count_switches(losses["epoch_N"], losses["post_N"], losses["on_cot_N"] > 0, losses["has_cot_N"])


def _switches_table(by_name: Mapping[str, Sequence[Switches]]) -> Table:
    """A row a system: means over its runs, by epoch where there is more than one number."""

    def by_epoch(values: Sequence[np.ndarray]) -> str:
        epochs = min(map(len, values))
        means = np.mean([each[:epochs] for each in values], axis=0)
        return " ".join(NOTHING if np.isnan(each) else f"{100 * each:.0f}" for each in means)

    rows = [
        (
            name,
            by_epoch([each.on_cot_E for each in found]),
            by_epoch([each.switched_E for each in found]),
            f"{np.mean([each.flips for each in found]):.2f}",
            percent(float(np.mean([each.never_cot for each in found]))),
            percent(float(np.mean([each.always_cot for each in found]))),
        )
        for name, found in by_name.items()
    ]
    header = ("", "on CoT by epoch, %", "switched since the epoch before, %", "flips a post", "never", "always on CoT")
    notes = ("of the posts with a chain of thought; means over runs",)
    return Table("Switches of Dynamic CoT", header, rows, notes)
