"""The complete runs of the systems of a table, scored and compared with one of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.jobs import ROOT
from benchmarks.systems import OURS, STAGED, Job, comparable, pocket_of
from mmkp_jax.evaluation.files import read_posts, read_train_keyphrases
from mmkp_jax.evaluation.significance import RESAMPLES, Differences, Intervals
from mmkp_jax.evaluation.systems import System, compare_systems, read_system
from mmkp_jax.pages.report.runs import ReportRun, read_runs

POCKET = ROOT / "runs" / "pocket"


class Result(NamedTuple):
    """The complete runs of one system, next to a system of reference."""

    system: str
    seeds: list[int]
    runs: list[ReportRun]
    scored: System
    intervals: Intervals
    reference_minus_this: Differences
    """Differences from the system of reference; empty for that one itself, and without resamples."""
    dataset: Path

    @property
    def strategy(self) -> str:
        """The strategy's name, one of `paper.NAMES`."""
        return self.runs[0].strategy

    @property
    def gamma(self) -> str:
        """The γ mode, as in `paper.BY_GAMMA`; only for Dynamic CoT."""
        return self.runs[0].gamma

    @property
    def name(self) -> str:
        """The name with γ, where there is one."""
        run = self.runs[0]
        name = "SFT, then Fine-tune-CoT" if self.system == STAGED else run.system
        return f"{name}, γ {self.gamma}" if run.decides else name

    def f1(self, group: str) -> dict[int, float]:
        """F1@1 by seed, in percent."""
        return {seed: 100 * each[group]["f1@1"] for seed, each in zip(self.seeds, self.scored.scores, strict=True)}


def read_results(
    systems: Sequence[str], jobs: Sequence[Job], reference: str = OURS, resamples: int = RESAMPLES
) -> dict[str, Result]:
    """Results of those systems, in their order; p of the differences is adjusted for all groups and systems.

    Empty as long as the system of reference is not complete.

    Raises:
        InputError: a run's predictions are not of the posts that its dataset now has.
    """
    shown = comparable([job for job in jobs if job.system in systems])
    runs = dict(zip(shown, read_runs([job.workdir for job in shown]), strict=True)) if shown else {}
    by_system = {system: {job.seed: run for job, run in runs.items() if job.system == system} for system in systems}
    by_system = {system: own for system, own in by_system.items() if own}
    if reference not in by_system:
        return {}
    dataset = dataset_of(shown[0], runs[shown[0]])
    posts, seen = read_posts(dataset), read_train_keyphrases(dataset)
    scored = {
        system: read_system([run.file for run in own.values()], posts, seen, None) for system, own in by_system.items()
    }
    others = [system for system in scored if system != reference]
    compared = compare_systems(scored[reference], [scored[system] for system in others], resamples)
    short = dict(zip([reference, *others], compared.systems, strict=True))
    return {
        system: Result(
            system,
            list(own),
            list(own.values()),
            scored[system],
            compared.intervals.get(short[system], {}),
            compared.differences.get(short[system], {}),
            dataset,
        )
        for system, own in by_system.items()
    }


def dataset_of(job: Job, run: ReportRun) -> Path:
    """The dataset that the run was evaluated on."""
    return ROOT / run.config["data"]["path"] if job.presets else pocket_dataset(job.posts)


def pocket_dataset(posts: int) -> Path:
    """The dataset of pocket whose posts are of this seed."""
    return (ROOT / pocket_of(posts) if posts else POCKET) / "dataset"
