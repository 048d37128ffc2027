"""The report's tables: runs next to each other, and for its data the paper's Tables 4, 5 and 7 next to them."""

import datetime
import json
from collections.abc import Mapping, Sequence

import numpy as np

from mmkp_jax.evaluation.metric import GROUPS, Scores
from mmkp_jax.evaluation.outputs import FORMS, form_shares, mean_words
from mmkp_jax.evaluation.significance import RESAMPLES, Differences
from mmkp_jax.pages.report import paper
from mmkp_jax.pages.report.runs import ReportRun
from mmkp_jax.pages.report.scores import RunScores
from mmkp_jax.pages.tables import Table, count, plain, share
from mmkp_jax.runtime.fields import leaves
from mmkp_jax.runtime.terminal import without_repeats

NOTHING = "–"


def runs_table(runs: Sequence[ReportRun]) -> Table:
    """Facts of each run: when and where it was made, and what it was trained on; one column a run."""
    facts = [_facts(run) for run in runs]
    rows = [(fact, *(each[fact] for each in facts)) for fact in facts[0]]
    return Table("Runs", ("", *(plain(run.name, 60) for run in runs)), rows, words=range(1, len(runs) + 1))


def _facts(run: ReportRun) -> dict[str, str]:
    environment, metrics = run.environment, run.metrics
    gamma = f", γ {run.gamma}" if run.decides else ""
    devices = len(environment.get("devices", ()))
    packages = environment.get("packages", {})
    return {
        "strategy": run.system + gamma,
        "model": plain(str(run.config["model"].get("path", NOTHING))),
        "data": plain(str(run.config["data"].get("path", NOTHING))),
        "trained on": _trained_on(run),
        "with a chain of thought": _with_chain(run),
        "steps": count(int(metrics["step"][-1])) if metrics else NOTHING,
        "label tokens": _total(metrics, "labels"),
        "device": f"{environment['device_kind']} × {devices}" if "device_kind" in environment else NOTHING,
        "software": f"jax {packages['jax']}" if "jax" in packages else NOTHING,
        "revision": str(environment.get("revision") or NOTHING),
        "evaluated": f"step {count(run.step)}, {count(len(run.answers))} posts",
        "at": _when(run),
    }


def times_table(runs: Sequence[ReportRun]) -> Table:
    """Hours of each run by what they went to, from the seconds that it logged; a run that logged none is no row."""
    rows = []
    for run in runs:
        parts = _hours(run.metrics)
        total = sum(parts.values())
        if total:
            cells = (f"{hours:.2f} ({share(hours, total)})" if hours else NOTHING for hours in parts.values())
            rows.append((plain(run.name, 60), f"{total:.2f}", *cells))
    notes = [
        "steps: without their wait for data; first call: the compilation of the step, once a start. The last checkpoint"
        " and the evaluation of the test posts are not in it."
    ]
    return Table("Hours of training", ("", "in all", *_hours({})), rows, notes)


def _hours(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    def total(name: str) -> float:
        return float(np.nansum(metrics.get(name, np.zeros(0)))) / 3600

    waited = 0.0
    if {"seconds", "data_wait_share"} <= metrics.keys():
        waited = float(np.nansum(metrics["seconds"] * metrics["data_wait_share"])) / 3600
    return {
        "steps": total("seconds") - waited,
        "wait for data": waited,
        "first call": total("compile_seconds"),
        "validation": total("evaluation_seconds"),
        "checkpoints": total("checkpoint_seconds"),
    }


def _trained_on(run: ReportRun) -> str:
    """Number of posts, each counted once if the run saved them, and with repeats."""
    if not run.metrics:
        return "nothing"
    seen = _total(run.metrics, "posts")
    if "losses" not in run.arrays:
        return f"{seen} posts, repeats counted"
    posts = len(np.unique(run.arrays["losses"]["post_N"]))
    epochs = f" ({float(np.nansum(run.metrics['posts'])) / posts:.1f} epochs)" if posts and seen != NOTHING else ""
    return f"{count(posts)} posts, {seen} with repeats{epochs}"


def _with_chain(run: ReportRun) -> str:
    """The number of training posts with a chain of thought."""
    arrays = run.arrays.get("losses", {})
    if "has_cot_N" not in arrays:
        return NOTHING
    posts, first = np.unique(arrays["post_N"], return_index=True)
    return f"{count(int(arrays['has_cot_N'][first].sum()))} of {count(len(posts))} posts"


def _total(metrics: Mapping[str, np.ndarray], name: str) -> str:
    return count(int(np.nansum(metrics[name]))) if name in metrics else NOTHING


def _when(run: ReportRun) -> str:
    written = datetime.datetime.fromtimestamp(run.file.stat().st_mtime).astimezone()
    return f"{written:%Y-%m-%d %H:%M %Z}"


def differences_of_config(runs: Sequence[ReportRun]) -> Table:
    """The fields of the runs' configs that differ."""
    fields = [dict(leaves(run.config)) for run in runs]
    keys = sorted(set().union(*fields))
    rows = [
        (key, *(plain(json.dumps(each[key], ensure_ascii=False)) if key in each else NOTHING for each in fields))
        for key in keys
        if any(each.get(key, ...) != fields[0].get(key, ...) for each in fields)
    ]
    names = (plain(run.name, 60) for run in runs)
    return Table("Config: what differs", ("config.", *names), rows, words=range(1, len(runs) + 1))


def groups_table(runs: Sequence[ReportRun], scored: Sequence[RunScores], metric: str) -> Table:
    """One metric of each run by group, with its interval and n."""
    first = scored[0].scores
    rows = [("posts", *(count(int(first[group]["n"])) if first.get(group) else NOTHING for group in GROUPS))]
    rows += [
        (plain(run.name, 60), *(_with_interval(each, group, metric) for group in GROUPS))
        for run, each in zip(runs, scored, strict=True)
    ]
    return Table(f"{metric.upper()} by group, %", ("", *GROUPS), rows)


def _with_interval(scored: RunScores, group: str, metric: str) -> str:
    cell, found = _percent(scored.scores, group, metric), scored.intervals.get(group)
    return f"{cell} ({100 * found[metric].low:.1f}–{100 * found[metric].high:.1f})" if found else cell


def _percent(scores: Scores, group: str, metric: str = "f1@1") -> str:
    return f"{100 * scores[group][metric]:.2f}" if scores.get(group) else NOTHING


def differences_table(runs: Sequence[ReportRun], differences: Sequence[Differences], metric: str) -> Table:
    """Differences of one metric in points, the first run minus each of the others."""
    rows = [
        (
            plain(run.name, 60),
            group,
            f"{100 * cells[metric].delta:+.2f}",
            f"{100 * cells[metric].low:+.2f} to {100 * cells[metric].high:+.2f}",
            f"{cells[metric].p:.4f}",
            f"{cells[metric].p_holm:.4f}",
        )
        for run, groups in zip(runs[1:], differences, strict=True)
        for group, cells in groups.items()
        if cells is not None
    ]
    header = (f"{plain(runs[0].name, 60)} minus", "group", "points", "95% interval", "p", "p, Holm")
    notes = [
        f"interval and p: paired bootstrap over {RESAMPLES:,} resamples of the posts;"
        " Holm: for all groups and runs. They do not include differences between seeds."
    ]
    return Table(f"Differences in {metric.upper()}", header, without_repeats(rows), notes, left=2)


def systems_table(runs: Sequence[ReportRun], kind: str, title: str) -> Table:
    """F1@1, or the first run's metric, of the systems that runs were compared with.

    Args:
        kind: `scores` (by group) or `by_kind`.
    """
    found = [(run.name, name, scores) for run in runs for name, scores in run.comparisons.get(kind, {}).items()]
    own: dict[str, Scores] = {}
    shared: dict[str, Scores] = {}
    for run, name, scores in found:
        alike = [each == scores for _, other, each in found if other == name]
        if len(alike) > 1 and all(alike):  # like baselines of the same data
            shared[name] = scores
        else:
            own[f"{run}: {name}" if len(runs) > 1 else name] = scores
    systems = own | shared
    groups = list(dict.fromkeys(group for scores in systems.values() for group in scores))
    metric = runs[0].metric
    rows = [
        (plain(name, 80), *(_percent(scores, group, metric) for group in groups)) for name, scores in systems.items()
    ]
    if rows:
        first = next(iter(systems.values()))
        rows.insert(0, ("posts", *(count(int(first[group]["n"])) if first.get(group) else NOTHING for group in groups)))
    return Table(title, (f"{metric.upper()}, %", *(plain(group, 40) for group in groups)), rows)


def strategies_table(runs: Sequence[ReportRun], scored: Sequence[RunScores], of_paper: str | None) -> Table:
    """F1@1 by strategy; next to it, for data of the paper, its Table 4, in a row of every strategy.

    Args:
        of_paper: the paper's dataset that the runs are of, `paper.dataset_of`.
    """
    shown = [number for number, each in enumerate(paper.STRATEGY_SETTINGS) if each.endswith(f", {of_paper}")]
    rows = []
    for name, strategy in _systems(runs).items():
        cells = paper.BY_STRATEGY.get(strategy, ((),) * len(paper.STRATEGY_SETTINGS))
        reported = tuple(" / ".join(f"{each:.2f}" for each in cells[number]) or NOTHING for number in shown)
        own = [
            (plain(run.name, 60), *(_percent(each.scores, group) for group in paper.STRATEGY_GROUPS))
            for run, each in zip(runs, scored, strict=True)
            if run.system == name
        ]
        rows += [(name, *cells, *reported) for cells in own or [(NOTHING,) * 4] * bool(shown)]
    settings = (f"paper, {paper.STRATEGY_SETTINGS[number]}" for number in shown)
    header = ("strategy", "run", *paper.STRATEGY_GROUPS, *settings)
    notes = ["F1@1 in percent"]
    if shown:
        notes = ["F1@1 in percent; the paper's Table 4: all / seen / unseen, of Qwen2.5-VL"]
    return Table("By strategy", header, without_repeats(rows), notes, left=2)


def traditional_table(of_paper: str | None) -> Table:
    """The published F1@1 of traditional models, where the data is the paper's MMKP; no rows for other data."""
    rows = [
        (name, reads, f"{f1:.2f}", paper.BUILT.get(name, "not built"))
        for name, (reads, f1) in paper.TRADITIONAL.items()
        if of_paper == "MMKP"
    ]
    header = ("model", "reads", "published F1@1, %", "to train it here")
    notes = ["Published, of the paper's Table 3, on the whole of MMKP: none of these was run here."]
    return Table("Traditional models, as published", header, rows, notes, left=2, words=(3,))


def _systems(runs: Sequence[ReportRun]) -> dict[str, str]:
    """The rows of a table by strategy: the paper's, with the strategy of each, then what else was run."""
    return {name: strategy for strategy, name in paper.NAMES.items()} | {
        run.system: "" for run in runs if run.system not in paper.NAMES.values()
    }


def gammas_table(runs: Sequence[ReportRun], scored: Sequence[RunScores], of_paper: str | None) -> Table:
    """A row for each run of Dynamic CoT by the paper's decision; next to it, for MMKP-V2, the paper's Table 5."""
    own = [(run, each) for run, each in zip(runs, scored, strict=True) if run.system == paper.NAMES["dyncot"]]
    with_paper = of_paper == "MMKP-V2"
    gammas = {run.gamma for run, _ in own} | (paper.BY_GAMMA.keys() if with_paper else set())
    rows = []
    for gamma in sorted(gammas, key=lambda each: (each[0].isdigit(), each)):
        reported = tuple(f"{each:.2f}" for each in paper.BY_GAMMA.get(gamma, ())) or (NOTHING,) * 3
        cells = [
            (plain(run.name, 60), *(_percent(each.scores, group) for group in paper.GAMMA_GROUPS), _on_cot(run))
            for run, each in own
            if run.gamma == gamma
        ]
        rows += [(gamma, *each, *reported[: 3 * with_paper]) for each in cells or [(NOTHING,) * 5]]
    header = ("γ", "run", *paper.GAMMA_GROUPS, "posts on CoT")
    notes = ["F1@1 in percent. On CoT: of the posts of all steps."]
    if with_paper:
        header = (*header, *(f"paper, {each}" for each in paper.GAMMA_GROUPS))
        notes.append("The paper's: its Table 5, Qwen2.5-VL-3B on MMKP-V2.")
    return Table("Dynamic CoT by γ", header, without_repeats(rows), notes, left=2)


def _on_cot(run: ReportRun) -> str:
    if not {"cot_share", "posts"} <= run.metrics.keys():
        return NOTHING
    return share(np.nansum(run.metrics["cot_share"] * run.metrics["posts"]), np.nansum(run.metrics["posts"]))


def words_table(runs: Sequence[ReportRun], of_paper: str | None) -> Table:
    """Words generated and the forms of outputs, a row a run; next to it, for MMKP-V2, the paper's Table 7."""
    words = {run.name: mean_words([answer.output for answer in run.answers]) for run in runs}
    cot = next((words[run.name] for run in runs if run.strategy == "cot"), None)
    with_paper = of_paper == "MMKP-V2"
    rows = []
    for name, strategy in _systems(runs).items():
        reported = paper.WORDS.get(strategy)
        reported_cells = (f"{reported:.2f}", _less(reported, paper.WORDS["cot"])) if reported else (NOTHING,) * 2
        own = []
        for run in [each for each in runs if each.system == name]:
            shares = form_shares([answer.form for answer in run.answers])
            cells = f"{words[run.name]:.2f}", _less(words[run.name], cot), *(share(each, 1) for each in shares.values())
            own.append((plain(run.name, 60), *cells))
        nothing = [(NOTHING,) * (3 + len(FORMS))] * with_paper
        rows += [(name, *cells, *reported_cells[: 2 * with_paper]) for cells in own or nothing]
    header = ("strategy", "run", "words", "against CoT", *FORMS)
    notes = [
        "words generated for a post, tags and all; against CoT: of Fine-tune-CoT",
        "direct, cot: `kp; kp`, without and with reasoning; other: another form of list, read as one keyphrase (score"
        " --reading=lenient splits it); broken: cut off",
    ]
    if with_paper:
        header = (*header, "paper, words", "against CoT")
        notes.append("The paper's: its Table 7, Qwen2.5-VL-3B on MMKP-V2.")
    return Table("Words generated", header, without_repeats(rows), notes, left=2)


def _less(words: float, cot: float | None) -> str:
    return f"{100 * (words / cot - 1):+.2f}%" if cot and words != cot else NOTHING
