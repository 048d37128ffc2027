"""The paper's Table 4 in miniature: every strategy on pocket, the same posts in the same steps, and Tables 4, 5 and 7.

    python -m benchmarks.strategies [--seeds=N] [--runs=DIR] [--jobs=N] [--gammas] [--decisions]
                                    [--baselines] [--presets=NAME=VALUE,…] [--posts=SEED]

Runs of `mmkp_jax.main`, `--jobs` at a time, each on cores of its own: the strategies seed by seed, then the other γ. A
seed is that of the order of posts; the weights that runs begin with are the same, as a published checkpoint's are. A
run that is complete is kept and a stopped one resumes, so this can be interrupted and called again; a table is of
the seeds under which each of its systems is complete (where there is none, of what is complete under the first), and
`--jobs=0` prints them alone. Each complete run then predicts the test split with and without chains of thought
(`benchmarks/modes.py`).

`--decisions` compares other decisions and controls at equal posts and steps, most of them with half of the posts on CoT
(`benchmarks/systems.py`); `--baselines` compares the traditional models and frozen hidden states with Dynamic CoT. With
`--gammas` they are all there is: 102 runs of five seeds. A run on pocket takes three to eight minutes on a
core, so all of them two and a half to seven hours on two.

Gates say whether a comparison of decisions is evidence (`benchmarks/gates.py`), and scores are kept in
`benchmarks/results` (`benchmarks/kept.py`). With `--presets` it is a published model on its own dataset, a run at a
time: `--gammas` alone is the paper's Table 5. All runs read one dataset and its one cache of posts' sizes. With
`--posts` pocket's posts, and which tags are seen, are of another seed: posts on which nothing was chosen.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import gates, scored
from benchmarks.dynamics import dynamics_table
from benchmarks.jobs import ROOT, run_all
from benchmarks.kept import keep, kept_tables
from benchmarks.machine import describe_machine
from benchmarks.modes import ModeJob, mode_tables, modes_of
from benchmarks.scored import Result, dataset_of, pocket_dataset, read_results
from benchmarks.systems import (
    AT_HALF,
    BASELINES,
    BY_BASELINE,
    BY_DECISION,
    BY_GAMMA,
    BY_STRATEGY,
    DECIDED,
    INVERSE,
    OURS,
    OVERRIDES,
    PAPERS,
    Job,
    jobs_of,
    pocket_of,
)
from benchmarks.tables import (
    NOTHING,
    baselines_table,
    decisions_table,
    differences_table,
    gammas_table,
    strategies_table,
    words_table,
)
from mmkp_jax.errors import InputError
from mmkp_jax.pages.report.runs import read_runs
from mmkp_jax.pages.tables import as_text
from mmkp_jax.pocket.make import make
from mmkp_jax.runtime.cli import status_of
from mmkp_jax.runtime.config import read_config


def keep_complete(jobs: Sequence[Job]) -> None:
    """Keeps the scores of every complete run, seed by seed; of a seed without its Dynamic CoT run nothing yet."""
    for seed in sorted({job.seed for job in jobs}):
        keep(read_results((*OVERRIDES, *DECIDED), [job for job in jobs if job.complete and job.seed == seed], OURS, 0))


def strategy_results(jobs: Sequence[Job]) -> dict[str, Result]:
    """What gates are measured on: the strategies' complete runs in the folder of these jobs, under the same seeds."""
    seeds = max(job.seed for job in jobs) + 1
    return read_results(BY_STRATEGY, jobs_of(seeds, jobs[0].workdir.parent, jobs[0].presets, posts=jobs[0].posts))


def mode_jobs(jobs: Sequence[Job]) -> list[ModeJob]:
    """Predictions of the complete runs with and without chains of thought."""
    runs = [(job, read_runs([job.workdir])[0]) for job in jobs if job.complete and job.system not in BASELINES]
    return [modes_of(run, dataset_of(job, run)) for job, run in runs]


def show(jobs: Sequence[Job]) -> None:
    """Prints where this was run, what is missing, and the tables."""
    shown = {job.system for job in jobs}  # of a sweep of γ, one is a strategy of Table 4 too: no table of itself
    by_strategy, by_gamma = (
        read_results(systems, jobs) if len(shown.intersection(systems)) > 1 else {}
        for systems in (BY_STRATEGY, BY_GAMMA)
    )
    by_decision = read_results(BY_DECISION, jobs) if any(job.system in DECIDED for job in jobs) else {}
    at_half = read_results(AT_HALF, jobs, PAPERS) if any(job.system in AT_HALF for job in jobs) else {}
    from_inverse = read_results(BY_DECISION, jobs, INVERSE) if by_decision else {}
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
        (from_inverse, (differences_table,)),
        (by_baseline, (baselines_table, differences_table)),
    ):
        for table in tables if len(results) > 1 else ():
            print(f"\n{as_text(table(results))}")
    whole = {**by_strategy, **by_gamma, **by_decision, **by_strategy}  # whose seeds are all there the soonest
    on_pocket = gates.is_pocket(jobs[0].presets)
    kept = kept_tables(whole, pocket_dataset(jobs[0].posts)) if on_pocket else []
    for table in [*mode_tables(whole), dynamics_table(whole), *kept]:
        if table.rows:
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
    parser.add_argument("--posts", type=int, default=0, help="the seed of pocket's posts")
    args = parser.parse_args(arguments)
    if args.seeds < 1 or args.posts < 0 or (args.jobs or 0) < 0:
        parser.error("--seeds is at least 1, --jobs and --posts at least 0")
    if args.runs.exists() and not args.runs.is_dir():
        raise InputError("this is a file, and runs are kept in a folder", str(args.runs), "give another --runs")
    read_config(f"configs/dyncot.py:{args.presets}" if args.presets else "configs/dyncot.py")  # refuses unknown presets
    if args.posts and args.presets:
        parser.error("--posts is about pocket's posts, and --presets names others: give one of them")
    only = {"gammas": args.gammas, "decisions": args.decisions, "baselines": args.baselines}
    jobs = jobs_of(args.seeds, args.runs.resolve(), args.presets, **only, posts=args.posts)
    on_pocket = gates.is_pocket(args.presets)
    if on_pocket:
        make(scored.POCKET)
    if args.posts:
        make(ROOT / pocket_of(args.posts), args.posts)
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
