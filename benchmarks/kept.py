"""Keeps what complete runs of `benchmarks.strategies` measured, so that other machines and later days add to it.

A run's answers with each mode, its scores, what it counted and its config go into
`benchmarks/results/strategies/BED/RUN.json`, some 30 kB that are committed. `BED` names what runs must share to stand
next to each other: the posts, the student's weights, and every setting that is not its default, except the seed and
those that make a system what it is. From the answers runs that are gone are compared post by post with those of today.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.dynamics import quarters
from benchmarks.gates import lowest_recall, own_scores, tuned_jobs
from benchmarks.jobs import ROOT
from benchmarks.machine import describe_machine
from benchmarks.modes import read_forced, switches_of
from benchmarks.systems import INVERSE, ORDERLESS, OURS, PAPERS, STAGED
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.files import read_posts, read_train_keyphrases
from mmkp_jax.evaluation.metric import PostLike, per_post
from mmkp_jax.evaluation.modes import METRIC, ModeGroup, measure_modes
from mmkp_jax.evaluation.outputs import mean_words
from mmkp_jax.evaluation.significance import RESAMPLES, RunCounts, compare, holm
from mmkp_jax.pages.report.runs import SPLIT, ReportRun
from mmkp_jax.pages.tables import Table, count
from mmkp_jax.runtime.atomic import write_json
from mmkp_jax.runtime.config import default_config
from mmkp_jax.runtime.json_files import is_texts, read_object
from mmkp_jax.runtime.terminal import without_repeats
from mmkp_jax.training.contents import CONTENTS_FILE

if TYPE_CHECKING:
    from benchmarks.scored import Result

KEPT = ROOT / "benchmarks" / "results" / "strategies"

OWN = ("seed", "strategy", "decision", "gamma", "gamma_mode", "gamma_share")
"""Settings that differ between the systems and the seeds of one bed."""

GROUPS = ("all", "seen", "unseen", "absent")

NOTHING = "–"

RESTORE = "restore it from git, or remove it"


def bed_of(run: ReportRun) -> str:
    """The name of a run's bed, ten hexadecimal digits; not for the staged run, whose second half has other weights.

    Raises:
        InputError: the run did not record what it began with.
    """
    defaults = default_config().to_dict()
    shared = {name: value for name, value in run.config.items() if name not in OWN and value != defaults.get(name)}
    began_with = read_object(run.path / CONTENTS_FILE, "remove the run, or give another --runs")
    contents = [began_with.text(name) for name in ("model.path", "data.path")]
    whole = json.dumps([shared, contents, posts_digest(run.answers)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:10]


def posts_digest(posts: Iterable[PostLike]) -> str:
    """A digest of the posts' ids and keyphrases, in any order."""
    listed = sorted([post.id, list(post.keyphrases)] for post in posts)
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def keep(results: Mapping[str, "Result"], folder: Path = KEPT) -> Path | None:
    """Writes the records of these runs, over those of the same run; returns the bed's folder, None without runs.

    A record with the answers of each mode stays where the run at hand has not been asked for them; that another score
    takes the place of one is said.

    Raises:
        InputError: the runs are not of one bed.
    """
    single = [run for system, result in results.items() if system != STAGED for run in result.runs]
    if not single:
        return None
    beds = {bed_of(run): run.path for run in single}
    if len(beds) > 1:
        what = f"runs differ in more than their systems: {', '.join(path.name for path in beds.values())}"
        raise InputError(what, str(single[0].path.parent), "give another --runs")
    bed = folder / next(iter(beds))
    bed.mkdir(parents=True, exist_ok=True)
    for system, result in results.items():
        for n, seed in enumerate(result.seeds):
            file, record = bed / f"{system}-seed{seed}.json", record_of(result, n)
            before = read_record(file) if file.exists() else None
            if before and before["modes"] and not record["modes"]:
                continue
            if before and before["answers"]["auto"] != record["answers"]["auto"]:
                was, now = (100 * each[SPLIT]["all"][METRIC] for each in (before, record))
                print(f"{file}: F1@1 was {was:.2f} ({before['revision']}), and is {now:.2f} ({record['revision']}) now")
            write_json(file, record, indent=None)
    return bed


def record_of(result: "Result", n: int) -> dict[str, Any]:
    """What is kept of a system's run number `n`; `modes` is None while its predictions with each mode are missing."""
    run = result.runs[n]
    one = result._replace(
        seeds=result.seeds[n : n + 1],
        runs=[run],
        scored=type(result.scored)(*(field[n : n + 1] for field in result.scored)),
        reference_minus_this={},
        intervals={},
    )
    by_mode = {"auto": one.scored, **(read_forced(one) or {})}
    modes = measure_modes(by_mode) if len(by_mode) > 1 else None
    logged = {name: np.nansum(run.metrics[name]) for name in ("posts", "labels") if name in run.metrics}
    switches = switches_of(run)
    return {
        "system": result.system,
        "seed": one.seeds[0],
        "step": run.step,
        "revision": run.environment.get("revision"),
        "packages": run.environment.get("packages"),
        "machine": describe_machine(),
        "config": run.config,
        "posts": posts_digest(run.answers),
        "trained_on": {name: int(total) for name, total in logged.items()},
        SPLIT: one.scored.scores[0],
        "words": mean_words([answer.output for answer in run.answers]),
        "by_kind": {kind: scores[METRIC] for kind, scores in own_scores(run.comparisons).items() if scores},
        "recall": lowest_recall(tuned_jobs(one)),
        "quarters": quarters(run),
        "switches": switches and {name: _plain(value) for name, value in switches._asdict().items()},
        "modes": modes and {group: each and _mode_record(each) for group, each in modes.items()},
        "answers": {mode: system.predicted[0].predictions for mode, system in by_mode.items()},
    }


def read_record(file: Path) -> dict[str, Any]:
    """A record as `keep` wrote it.

    Raises:
        InputError: it is damaged.
    """
    record = read_object(file, RESTORE)
    record.text("system"), record.integer("seed")
    answers = record.object("answers").content.get("auto")
    if not isinstance(answers, list) or not all(map(is_texts, answers)):
        raise InputError("answers.auto is not a list of keyphrases for each post", str(file), RESTORE)
    scores = record.object(SPLIT)
    for group in GROUPS:
        if scores.content.get(group) is not None:
            scores.object(group).number(METRIC)
    return {"modes": None, "posts": None, "revision": None, **record.content}


def kept_tables(results: Mapping[str, "Result"], dataset: Path, folder: Path = KEPT) -> list[Table]:
    """F1@1 of the kept runs of these runs' bed, and their differences from Dynamic CoT; without runs, of each bed.

    Only of beds with these posts, and none where every kept run is among these, whose own tables say more.
    """
    runs = [run for system, result in results.items() if system != STAGED for run in result.runs]
    here = {f"{system}-seed{seed}" for system, result in results.items() for seed in result.seeds}
    posts, tables = read_posts(dataset), []
    for bed in [folder / bed_of(runs[0])] if runs else sorted(folder.glob("*")):
        files = sorted(bed.glob("*.json"))
        if not here.issuperset(file.stem for file in files) and _posts_of(files[0]) == posts_digest(posts):
            tables += _tables_of(bed.name, map(read_record, files), posts, read_train_keyphrases(dataset))
    return tables


def _posts_of(file: Path) -> str:
    """The digest of the posts of a record, and so of its bed."""
    return read_object(file, RESTORE).text("posts", "")


def _tables_of(
    bed: str, records: Iterable[Mapping[str, Any]], posts: Sequence[PostLike], seen: set[str]
) -> list[Table]:
    by_system: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in records:
        by_system.setdefault(record["system"], {})[record["seed"]] = record
    rows = [
        (system, count(len(found)), *(_spread([each[SPLIT][group] for each in found.values()]) for group in GROUPS))
        for system, found in by_system.items()
    ]
    note = "F1@1 in percent, mean ± standard deviation between seeds"
    scored = Table(f"Kept in {bed}", ("", "runs", *GROUPS), rows, (note,))
    counts = {
        system: {seed: _counts(each, posts, seen) for seed, each in found.items()}
        for system, found in by_system.items()
    }
    return [
        scored,
        *(_differences(counts, each) for each in (OURS, PAPERS, INVERSE) if each in counts and len(counts) > 1),
    ]


def _counts(record: Mapping[str, Any], posts: Sequence[PostLike], seen: set[str]) -> RunCounts:
    answers = record["answers"]["auto"]
    if len(answers) != len(posts):
        what = f"{record['system']}-seed{record['seed']} has {len(answers):,} answers for {len(posts):,} posts"
        raise InputError(what, str(KEPT), RESTORE)
    return per_post(posts, answers, seen)


def _differences(counts: Mapping[str, Mapping[int, RunCounts]], reference: str) -> Table:
    """The reference minus each other system, over the seeds that both have."""
    found = {}
    for system, runs in counts.items():
        seeds = [seed for seed in counts[reference] if seed in runs]
        if system != reference and seeds:
            own = [run for seed, run in counts[reference].items() if seed in seeds or system in ORDERLESS]
            (found[system],) = compare(own, [[runs[seed] for seed in seeds]])
    cells = [(system, group, each[group][METRIC]) for system, each in found.items() for group in GROUPS if each[group]]
    rows = [
        (
            system,
            group,
            f"{100 * cell.delta:+.2f}",
            f"{100 * cell.low:+.2f} to {100 * cell.high:+.2f}",
            f"{cell.p:.4f}",
            f"{p_holm:.4f}",
        )
        for (system, group, cell), p_holm in zip(cells, holm([cell.p for *_, cell in cells]), strict=True)
    ]
    note = (
        f"F1@1; {RESAMPLES:,} resamples of the test posts and of the seeds, in pairs; Holm: for the rows of this table"
    )
    header = (f"{reference} minus", "group", "points", "95% interval", "p", "p, Holm")
    return Table("Differences of kept runs", header, without_repeats(rows), (note,), left=2)


def _mode_record(group: ModeGroup) -> dict[str, Any]:
    choice = {name: value for name, value in group.choice._asdict().items() if value is not None}
    columns = {column: scores[METRIC] for column, scores in group.scores.items()}
    return {"n": group.n, **columns, **choice, "words": dict(group.words)}


def _plain(value: Any) -> Any:
    return [None if np.isnan(each) else float(each) for each in value] if isinstance(value, np.ndarray) else value


def _spread(scores: Sequence[Mapping[str, float] | None]) -> str:
    if None in scores:
        return NOTHING
    values = [100 * each[METRIC] for each in scores]
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")
