"""The paper's Table 4 in miniature: every strategy on pocket, the same posts in the same steps, and Tables 4, 5 and 7.

    python -m benchmarks.strategies [--seeds=N] [--runs=DIR] [--jobs=N] [--gammas] [--decisions]
                                    [--baselines] [--presets=NAME=VALUE,…]

Runs of `mmkp_jax.main`, `--jobs` at a time, each on cores of its own: the strategies seed by seed, then the other γ. A
seed is that of the order of posts; the weights that runs begin with are the same, as a published checkpoint's are. A
run that is complete is kept and a stopped one resumes, so this can be interrupted and called again; a table is of
the seeds under which each of its systems is complete (where there is none, of what is complete under the first), and
`--jobs=0` prints them alone. Each complete run then predicts the test split with and without chains of thought
(`benchmarks/modes.py`).

`--decisions` compares other decisions and controls at equal posts and steps, most of them with half of the posts on CoT
(`benchmarks/systems.py`); `--baselines` compares the traditional models and frozen hidden states with Dynamic CoT. With
`--gammas` they are all there is: about a hundred runs of five seeds, some nine hours on two cores.

Gates say whether a comparison of decisions is evidence (`benchmarks/gates.py`), and scores are kept in
`benchmarks/results` (`benchmarks/kept.py`). With `--presets` it is a published model on its own dataset, a run at a
time: `--gammas` alone is the paper's Table 5. All runs read one dataset and its one cache of posts' sizes.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import gates
from benchmarks.jobs import ROOT, run_all
from benchmarks.kept import keep, kept_tables
from benchmarks.machine import describe_machine
from benchmarks.modes import ModeJob, mode_tables, modes_of
from benchmarks.systems import (
    AT_HALF,
    BASELINES,
    BY_BASELINE,
    BY_DECISION,
    BY_GAMMA,
    BY_STRATEGY,
    DECIDED,
    OURS,
    OVERRIDES,
    PAPERS,
    STAGED,
    Job,
    comparable,
    jobs_of,
)
from mmkp_jax.evaluation.files import read_posts, read_train_keyphrases
from mmkp_jax.evaluation.outputs import FORMS, form_shares, mean_words
from mmkp_jax.evaluation.significance import RESAMPLES, Differences, Intervals
from mmkp_jax.evaluation.systems import System, compare_systems, read_system
from mmkp_jax.pages.report import paper
from mmkp_jax.pages.report.runs import ReportRun, read_runs
from mmkp_jax.pages.tables import Table, as_text, count, share
from mmkp_jax.pocket.make import make
from mmkp_jax.runtime.cli import status_of
from mmkp_jax.runtime.terminal import without_repeats

POCKET = ROOT / "runs" / "pocket"

NOTHING = "–"


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


def keep_complete(jobs: Sequence[Job]) -> None:
    """Keeps the scores of every complete run, seed by seed; of a seed without its Dynamic CoT run nothing yet."""
    for seed in sorted({job.seed for job in jobs}):
        keep(read_results((*OVERRIDES, *DECIDED), [job for job in jobs if job.complete and job.seed == seed], OURS, 0))


def strategy_results(jobs: Sequence[Job]) -> dict[str, Result]:
    """What gates are measured on: the strategies' complete runs in the folder of these jobs, under the same seeds."""
    seeds = max(job.seed for job in jobs) + 1
    return read_results(BY_STRATEGY, jobs_of(seeds, jobs[0].workdir.parent, jobs[0].presets))


def dataset_of(job: Job, run: ReportRun) -> Path:
    """The dataset that the run was evaluated on."""
    return ROOT / run.config["data"]["path"] if job.presets else POCKET / "dataset"


def mode_jobs(jobs: Sequence[Job]) -> list[ModeJob]:
    """Predictions of the complete runs with and without chains of thought."""
    runs = [(job, read_runs([job.workdir])[0]) for job in jobs if job.complete and job.system not in BASELINES]
    return [modes_of(run, dataset_of(job, run)) for job, run in runs]


def strategies_table(results: Mapping[str, Result]) -> Table:
    """The paper's Table 4."""
    v2 = paper.STRATEGY_SETTINGS.index("3B, MMKP-V2")
    rows = [(result, paper.BY_STRATEGY[result.strategy][v2]) for result in results.values()]
    return _scores_table("By strategy (Table 4)", paper.STRATEGY_GROUPS, rows)


def gammas_table(results: Mapping[str, Result]) -> Table:
    """The paper's Table 5."""
    rows = [(result, paper.BY_GAMMA.get(result.gamma, ())) for result in results.values()]
    return _scores_table("Dynamic CoT by γ (Table 5)", paper.GAMMA_GROUPS, rows)


def decisions_table(results: Mapping[str, Result]) -> Table:
    """Dynamic CoT by decision, with controls."""
    title = "By decision (γ of 50%: half of the posts are put on CoT; of the staged run, counts are of its second half)"
    return _scores_table(title, ("all", "seen", "unseen", "absent"), [(result, ()) for result in results.values()])


def baselines_table(results: Mapping[str, Result]) -> Table:
    """Dynamic CoT next to the baselines; their steps are of their own."""
    return _scores_table(
        "Baselines", ("all", "seen", "unseen", "absent"), [(result, ()) for result in results.values()]
    )


def _scores_table(title: str, groups: Sequence[str], rows: Sequence[tuple[Result, Sequence[float]]]) -> Table:
    def cell(result: Result, group: str) -> str:
        if result.intervals[group] is None:  # no test post is of it
            return NOTHING
        low, high = result.intervals[group]["f1@1"]
        return f"{_spread(list(result.f1(group).values()))} ({100 * low:.1f}–{100 * high:.1f})"

    def reported(values: Sequence[float]) -> list[str]:
        return [f"{value:.2f}" for value in values] or [NOTHING] * len(groups) * has_reported

    has_reported = any(values for _, values in rows)
    header = ("", *groups, *FACTS, *(f"paper, {group}" for group in groups if has_reported))
    notes = [
        "F1@1 in percent: mean ± standard deviation between seeds (95% interval over test posts and seeds)"
        + "; the paper's: Qwen2.5-VL-3B on MMKP-V2" * has_reported,
        "label tokens: of the rows, both targets; a strategy's loss takes its own. on CoT: of the posts of all steps",
    ]
    return Table(
        title,
        header,
        [
            (result.name, *(cell(result, group) for group in groups), *_facts(result), *reported(values))
            for result, values in rows
        ],
        notes,
    )


FACTS = ("runs", "steps", "posts", "label tokens", "on CoT")


def _facts(result: Result) -> list[str]:
    """The cells of `FACTS`; steps, posts and labels of each run, which are the same under every seed or else listed."""
    trained = [run.metrics for run in result.runs if run.metrics]

    def each(values: Sequence[float]) -> str:
        return " / ".join(count(int(value)) for value in sorted(set(values))) or NOTHING

    posts, labels = (
        [np.nansum(metrics[name]) for metrics in trained if name in metrics] for name in ("posts", "labels")
    )
    on_cot = sum(np.nansum(metrics["cot_share"] * metrics["posts"]) for metrics in trained if "posts" in metrics)
    steps = [run.step for run in result.runs]
    return [count(len(result.runs)), each(steps), each(posts), each(labels), share(on_cot, sum(posts))]


def differences_table(results: Mapping[str, Result]) -> Table:
    """Differences of the system of reference from each of the others."""
    (ours,) = (result for result in results.values() if not result.reference_minus_this)
    rows = []
    for result in results.values():
        for group, by_metric in result.reference_minus_this.items():
            if by_metric is None:  # no test post is of this group
                continue
            found, own, other = by_metric["f1@1"], ours.f1(group), result.f1(group)
            rows.append(
                (
                    result.name,
                    group,
                    f"{100 * found.delta:+.2f}",
                    f"{100 * found.low:+.2f} to {100 * found.high:+.2f}",
                    *(NOTHING if p is None else f"{p:.4f}" for p in (found.p, found.p_holm, found.p_swaps)),
                    " ".join(f"{own[seed] - other[seed]:+.1f}" for seed in own if seed in other),
                )
            )
    header = (f"{ours.name} minus", "group", "points", "95% interval", "p", "p, Holm", "p, swaps", "by seed")
    notes = [
        f"F1@1; interval and p: {RESAMPLES:,} resamples of the test posts and of the seeds, in pairs; Holm: for all"
        " groups and systems of this table; swaps: of posts alone, – where there are not as many runs"
    ]
    return Table("Differences", header, without_repeats(rows), notes, left=2)


def words_table(results: Mapping[str, Result]) -> Table:
    """The paper's Table 7, with the forms of the outputs."""
    words = {
        system: [mean_words([answer.output for answer in run.answers]) for run in result.runs]
        for system, result in results.items()
    }
    rows = []
    for system, result in results.items():
        less = f"{100 * (np.mean(words[system]) / np.mean(words['cot']) - 1):+.2f}%" if "cot" in words else NOTHING
        forms = form_shares([answer.form for run in result.runs for answer in run.answers])
        has_reported = system in BY_STRATEGY and result.strategy in paper.WORDS
        reported = f"{paper.WORDS[result.strategy]:.2f}" if has_reported else NOTHING
        rows.append((result.name, _spread(words[system]), less, *(share(forms[form], 1) for form in FORMS), reported))
    return Table("Words generated (Table 7)", ("", "words", "against CoT", *FORMS, "paper"), rows)


def _spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, where there is more than one."""
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def show(jobs: Sequence[Job]) -> None:
    """Prints where this was run, what is missing, and the tables."""
    shown = {job.system for job in jobs}  # of a sweep of γ, one is a strategy of Table 4 too: no table of itself
    by_strategy, by_gamma = (
        read_results(systems, jobs) if len(shown.intersection(systems)) > 1 else {}
        for systems in (BY_STRATEGY, BY_GAMMA)
    )
    by_decision = read_results(BY_DECISION, jobs) if any(job.system in DECIDED for job in jobs) else {}
    at_half = read_results(AT_HALF, jobs, PAPERS) if any(job.system in AT_HALF for job in jobs) else {}
    by_baseline = read_results(BY_BASELINE, jobs) if any(job.system in BASELINES for job in jobs) else {}
    missing = [job.workdir.name for job in jobs if not job.complete]
    every = by_strategy, by_gamma, by_decision, by_baseline
    runs = [run for results in every for result in results.values() for run in result.runs]
    revisions = ", ".join(sorted({str(run.environment.get("revision", NOTHING)) for run in runs}))
    print(describe_machine())
    print(
        f"{len(jobs) - len(missing)} of {len(jobs)} runs are complete; revision of those shown: {revisions or NOTHING}"
    )
    if missing:
        print(f"missing: {', '.join(missing)}")
    print(gates.text_of(jobs[0].presets, jobs[0].workdir.parent, strategy_results(jobs)))
    for results, tables in (
        (by_strategy, (strategies_table, differences_table, words_table)),
        (by_gamma, (gammas_table, differences_table)),
        (by_decision, (decisions_table, differences_table, words_table)),
        (at_half, (differences_table,)),
        (by_baseline, (baselines_table, differences_table)),
    ):
        for table in tables if len(results) > 1 else ():
            print(f"\n{as_text(table(results))}")
    whole = {**by_strategy, **by_gamma, **by_decision, **by_strategy}  # whose seeds are all there the soonest
    for table in [*mode_tables(whole), *kept_tables(by_strategy)]:
        print(f"\n{as_text(table)}")


def run(arguments: Sequence[str] | None) -> int:
    """The exit status of running and printing: 1 where a run is missing at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/strategies"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, help="runs at a time, else one a core, or one with --presets; 0 for none")
    parser.add_argument("--presets", default="", help="model, data and mesh, as in configs/dyncot.py:…; else pocket")
    parser.add_argument("--gammas", action="store_true", help="Dynamic CoT under each γ (Table 5)")
    parser.add_argument("--decisions", action="store_true", help="the strategies, other decisions and controls")
    parser.add_argument("--baselines", action="store_true", help="Dynamic CoT and the baselines")
    args = parser.parse_args(arguments)
    only = {"gammas": args.gammas, "decisions": args.decisions, "baselines": args.baselines}
    jobs = jobs_of(args.seeds, args.runs.resolve(), args.presets, **only)
    on_pocket = gates.is_pocket(args.presets)
    if on_pocket:
        make(POCKET)
    at_a_time = args.jobs if args.jobs is not None else 1 if args.presets else len(os.sched_getaffinity(0))
    try:
        if at_a_time:
            run_all(jobs, at_a_time)
            run_all(mode_jobs(jobs), at_a_time)
            if on_pocket:
                run_all(gates.recall_jobs(args.runs.resolve(), strategy_results(jobs)), at_a_time)
    finally:
        if at_a_time and on_pocket:
            keep_complete(jobs)
        show(jobs)
    return 0 if all(job.complete for job in jobs) else 1


if __name__ == "__main__":
    sys.exit(status_of(run))
