"""The report: one HTML file without external resources, in which all values are escaped."""

import base64
import datetime
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.semantic import Embed
from mmkp_jax.evaluation.significance import Differences
from mmkp_jax.evaluation.table import HEADLINES
from mmkp_jax.pages.render import render
from mmkp_jax.pages.report import figures, measures, paper, phrases, tables
from mmkp_jax.pages.report.browser import browser_data, thumbnail
from mmkp_jax.pages.report.data import ReportData, open_data
from mmkp_jax.pages.report.neighbours import neighbours
from mmkp_jax.pages.report.runs import ReportRun, read_runs
from mmkp_jax.pages.report.scores import RunScores, compare_runs, differs_from_results, score_runs
from mmkp_jax.pages.tables import count, plain
from mmkp_jax.runtime.atomic import write_bytes
from mmkp_jax.runtime.escape import for_script

HERE = Path(__file__).parent

ARRAY_PARTS = {"losses": "Choosing γ", "hidden": "Clusters"}
"""The part of the page that each file of `run_files.ARRAYS` is for."""


def write_report(
    runs: Sequence[Path], out: Path, data: Path | None = None, *, by_tsne: bool = False, embed: Embed | None = None
) -> None:
    """Writes one page about one run, or several next to each other.

    Args:
        runs: work directories, with predictions of the same test posts.
        out: the page.
        data: the dataset of the posts; by default the one that the first run's config names. If that one is missing,
            the page leaves out what needs it, and says so.
        by_tsne: project hidden states by t-SNE instead of PCA.
        embed: the embedding for semantic scores; without it, there are none.

    Raises:
        InputError: there is no such run, it has no predictions, runs are of other test posts, `data` does not have
            the posts, t-SNE is requested but scikit-learn not installed, or `out` cannot be written.
    """
    found = read_runs(runs)
    page = _page(found, open_data(found, data), data, by_tsne, embed)
    try:
        write_bytes(out, page.encode("utf-8", "replace"))  # outputs may have lone surrogates
    except OSError as error:
        raise InputError(f"it cannot be written ({error.strerror})", str(out), "name another --out") from error


def _page(
    runs: Sequence[ReportRun], opened: ReportData | str, data_path: Path | None, by_tsne: bool, embed: Embed | None
) -> str:
    data = None if isinstance(opened, str) else opened
    scored = score_runs(runs, data, embed)
    differences = compare_runs(scored)
    order = sorted(HEADLINES, key=lambda metric: metric != runs[0].metric)
    of_paper = paper.dataset_of(str(data_path or runs[0].config["data"].get("path", "")))
    script = (HERE / "browser.js").read_text(encoding="utf-8")
    return render(
        "report/report.html.jinja",
        names=[plain(run.name, 60) for run in runs],
        summary=_summary(runs, scored),
        made=f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        without_data=None if data else opened,
        other_results=[run.name for run, each in zip(runs, scored, strict=True) if differs_from_results(run, each)],
        runs_table=tables.runs_table(runs),
        config_table=tables.differences_of_config(runs) if len(runs) > 1 else None,
        files=[_written_at_the_start(run) for run in runs],
        metrics=[_of_metric(runs, scored, differences, metric) for metric in order],
        measures=measures.measures_table(runs, scored),
        reliability=measures.reliability_table(runs, scored),
        systems=tables.systems_table(runs, "scores", "Baselines and ablations"),
        kinds=tables.systems_table(runs, "by_kind", "By what a keyphrase needs"),
        times=tables.times_table(runs),
        missed=phrases.missed_table(runs, [post.keyphrases for post in data.train] if data else None),
        of_paper=of_paper,
        strategy_tables=[
            tables.strategies_table(runs, scored, of_paper),
            tables.gammas_table(runs, scored, of_paper),
            tables.words_table(runs, of_paper),
            tables.traditional_table(of_paper),
        ],
        curves=figures.curves(runs),
        without_chains=[plain(run.name, 60) for run in runs if figures.lacks_chains(run)],
        no_chain=figures.NO_CHAIN,
        losses=figures.loss_tables(runs),
        clusters=figures.clusters(runs, by_tsne),
        left_out=_left_out(runs, data),
        neighbours=_neighbours(runs, scored, data) if data else [],
        browser=Markup(for_script(browser_data(runs, scored, data))),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _left_out(runs: Sequence[ReportRun], data: ReportData | None) -> list[tuple[str, str]]:
    """The parts that runs lack the files of, and why."""
    left_out = []
    if not any(run.comparisons.get("scores") for run in runs):
        left_out.append(("Baselines", "no run has a comparisons.json, which mmkp_jax.main writes when it evaluates"))
    if not any(run.metrics for run in runs):
        left_out.append(("Training", "nothing was trained"))
    for kind, part in ARRAY_PARTS.items():
        lacking = ", ".join(plain(run.name, 60) for run in runs if kind not in run.arrays)
        if lacking:
            left_out.append((part, f"there is no {kind}.npz of {lacking}"))
    if data is None:
        left_out.append(("Errors and neighbours", "the training posts are not available"))
    return left_out


def _of_metric(
    runs: Sequence[ReportRun], scored: Sequence[RunScores], differences: Sequence[Differences], metric: str
) -> dict[str, Any]:
    return {
        "bars": figures.group_bars(runs, scored, metric),
        "groups": tables.groups_table(runs, scored, metric),
        "differences": tables.differences_table(runs, differences, metric) if differences else None,
    }


def _written_at_the_start(run: ReportRun) -> tuple[str, str]:
    """The run's name, and its config and environment as JSON."""
    both = {"config": run.config, "environment": run.environment}
    return run.name, json.dumps(both, indent=2, ensure_ascii=False)


def _summary(runs: Sequence[ReportRun], scored: Sequence[RunScores]) -> str:
    metric = runs[0].metric

    def with_interval(number: int) -> str:
        score, found = scored[number].scores["all"][metric], scored[number].intervals["all"][metric]
        return f"{100 * score:.2f} ({100 * found.low:.1f}–{100 * found.high:.1f})"

    posts = f"{count(len(runs[0].answers))} test posts"
    if len(runs) == 1:
        return f"{runs[0].system}, at step {count(runs[0].step)}: {metric.upper()} {with_interval(0)} over {posts}."
    order = sorted(range(len(runs)), key=lambda number: scored[number].scores["all"][metric])
    low, high = order[0], order[-1]
    names = [plain(runs[number].name, 60) for number in (low, high)]
    worst, best = (f"{with_interval(number)}, {name}" for number, name in zip((low, high), names, strict=True))
    return f"{len(runs)} runs over the same {posts}: {metric.upper()} from {worst}, to {best}."


def _neighbours(runs: Sequence[ReportRun], scored: Sequence[RunScores], data: ReportData) -> list[dict[str, Any]]:
    return [
        {
            "of": found,
            "examples": [
                {
                    "post": data.test[each.number],
                    "image": thumbnail(data.test_image(each.number)),
                    "predicted": each.predicted,
                    "near": data.train[each.near],
                    "near_image": thumbnail(data.train_image(each.near)),
                    "shared": each.shared,
                }
                for each in found.examples
            ],
        }
        for found in neighbours(runs, scored, data)
    ]
