"""How Dynamic CoT moves: the P(think) at which the published rule is in balance, next to the one that came.

Of n labels, a post whose SFT loss is γ has P(think) = 1 - exp(-n (γ - L_kp)): under the published rule posts above it
are taught to answer directly, and posts below it to think (`training/losses.py: think_at_balance`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mmkp_jax.pages.report import paper
from mmkp_jax.pages.report.runs import ReportRun
from mmkp_jax.pages.tables import Table

if TYPE_CHECKING:
    from benchmarks.scored import Result

QUARTERS = 4
LOGGED = ("gamma", "loss_kp", "p_think_balance", "p_think", "cot_share")
"""Names of `metrics.jsonl`."""

NOTHING = "–"


def quarters(run: ReportRun) -> dict[str, list[float]]:
    """Means over posts of each of `LOGGED`, by quarter of the run's steps; without what one of them did not log."""
    found = {}
    for name in LOGGED:
        value_S, posts_S = run.metrics.get(name), run.metrics.get("posts")
        if value_S is None or posts_S is None:
            continue
        weight_S = np.where(np.isfinite(value_S), posts_S, 0)
        values, weights = (np.array_split(each, QUARTERS) for each in (np.nan_to_num(value_S), weight_S))
        if all(each.sum() > 0 for each in weights):
            found[name] = [float(np.average(v, weights=w)) for v, w in zip(values, weights, strict=True)]
    return found


def dynamics_table(results: Mapping[str, "Result"]) -> Table:
    """A row for each system that decides: means over its runs."""
    rows = []
    for result in results.values():
        each = [quarters(run) for run in result.runs if run.decides]
        if not each:
            continue
        is_papers = result.runs[0].system == paper.NAMES["dyncot"]

        def cell(name: str, percent: bool, each: list = each) -> str:
            if not all(name in run for run in each):
                return NOTHING
            means = np.mean([run[name] for run in each], axis=0)
            return " ".join(f"{100 * mean:.0f}" if percent else f"{mean:.2f}" for mean in means)

        balance = cell("p_think_balance", True) if is_papers else NOTHING
        has_gamma = not result.runs[0].config["decision"].startswith("random")
        shown = (cell("gamma", False) if has_gamma else NOTHING, cell("loss_kp", False), balance)
        rows.append((result.name, *shown, cell("p_think", True), cell("cot_share", True)))
    header = ("", "γ", "L_kp, nats a label", "P(think) in balance, %", "P(think), %", "posts on CoT, %")
    notes = (
        "means over posts and runs, by quarter of the steps; in balance: 1 - exp(-n (γ - L_kp)) of n labels, the"
        " published rule's alone; on CoT: of all posts",
    )
    return Table("Dynamics", header, rows, notes)
