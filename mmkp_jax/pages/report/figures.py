"""The report's charts: training curves, Figure 1b (F1 by group), the effect of each γ, Figure 3 (clusters).

Legend: `N` posts, `D` model width, `S` steps.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mmkp_jax.data.run_lines import USES_COT
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.metric import GROUPS
from mmkp_jax.pages.report import paper
from mmkp_jax.pages.report.runs import ReportRun
from mmkp_jax.pages.report.scores import RunScores
from mmkp_jax.pages.svg import HEIGHT, WIDTH, BarChart, Dot, LineChart, bar_chart, line_chart
from mmkp_jax.pages.tables import Table, count, plain, share

RATED = 50
"""Steps over which a rate is averaged, since the time of a single step is inexact."""

BALANCE = "p_think_balance"
"""The metric that says where the published rule is in balance, which is nothing to other strategies and decisions."""

CURVES = (
    ("loss", "Loss of the step, nats a label", None, True),
    ("loss_sft", "SFT loss, nats a label", None, True),
    ("loss_cot", "CoT loss, nats a label", None, True),
    ("cot_share", "Share of posts on CoT", 1.0, True),
    ("p_think", "P(think), the CoT target's first label", 1.0, True),
    ("gamma", "γ, nats a label", None, False),
    ("learning_rate", "Learning rate", None, False),
    ("grad_norm", "Norm of the gradient, before clipping", None, True),
    ("fill_tokens", "Share of token slots filled", 1.0, True),
    ("valid/all/{metric}", "{METRIC} on valid, all", None, False),
    ("valid/unseen/{metric}", "{METRIC} on valid, unseen", None, False),
    ("valid/words", "Words written on valid", None, False),
    ("posts_per_second", f"Posts a second, over {RATED} steps", None, False),
)
"""Name, title, end of the axis (None if it depends on the values), and whether the curve is smoothed. In names and
titles `{metric}` is that of the first run's tables."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
GAMMAS = tuple(float(each) for each in paper.BY_GAMMA if each != "avg")
GAMMA_AXIS = np.linspace(0, 1.5, 151)

NO_CHAIN = "no training post has a chain of thought: no γ puts any on CoT, and all trained as under SFT"
"""The note for a run without any chain of thought."""

MOST_FREQUENT = 5
"""Number of keyphrases whose posts are drawn (the paper's Figure 3)."""

MAX_STATE_VALUE = 1e30
"""Limit of a hidden state's numbers; posts above it, or with a number that is not finite, are not drawn."""

PERPLEXITY = 30.0
"""Perplexity of t-SNE; smaller for few posts."""


class Clusters(NamedTuple):
    """Hidden states of one run in two dimensions."""

    name: str
    dots: list[Dot]
    keyphrases: list[str]
    """Keyphrases in the order of their colours."""
    caption: str


def curves(runs: Sequence[ReportRun]) -> list[LineChart]:
    """Line charts of the logged metrics over the steps."""
    charts = []
    of_metric = {"metric": runs[0].metric, "METRIC": runs[0].metric.upper()}
    for named, titled, end, smooth in CURVES:
        name, title, series = named.format(**of_metric), titled.format(**of_metric), []
        for run in runs:
            series.append((run.name, *_values(run, name)))
        with_balance = name == "p_think"
        series += _balances(runs) if with_balance else []
        chart = line_chart(title, series, x_name="step", y_end=end, smooth=smooth)
        charts += [_dashed(chart, len(runs)) if with_balance else chart] if chart else []
    return charts


def _balances(runs: Sequence[ReportRun]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """A series for each run: P(think) in balance with γ; without points for other rules than the published one."""
    papers = paper.NAMES["dyncot"]
    nothing = np.zeros(0), np.zeros(0)
    return [
        (f"{run.name}, in balance with γ", *(_values(run, BALANCE) if run.system == papers else nothing))
        for run in runs
    ]


def _dashed(chart: LineChart, runs: int) -> LineChart:
    """The chart with the lines behind those of the runs dashed, each in its run's colour; the title says so."""
    lines = [
        line if line.colour < runs else line._replace(raw="", colour=line.colour - runs, is_dashed=True)
        for line in chart.lines
    ]
    says = "; dashed: in balance with γ" if lines != chart.lines else ""
    return chart._replace(title=chart.title + says, lines=lines)


def _values(run: ReportRun, name: str) -> tuple[np.ndarray, np.ndarray]:
    """`step_S` and `value_S` of a metric; empty if it was not logged."""
    metrics = run.metrics
    if name == "gamma" and run.config.get("decision", "").startswith("random"):  # what is logged there is a share
        return np.zeros(0), np.zeros(0)
    if name in metrics:
        at = np.isfinite(metrics[name]) if name.startswith("valid/") else slice(None)  # not logged at every step
        return metrics["step"][at], metrics[name][at]
    if name != "posts_per_second" or not {"posts", "seconds"} <= metrics.keys():
        return np.zeros(0), np.zeros(0)
    timed_S = np.isfinite(metrics["posts"]) & np.isfinite(metrics["seconds"])  # a first step's seconds are not known
    total = [np.cumsum(np.where(timed_S, metrics[each], 0)) for each in ("posts", "seconds")]
    posts_S, seconds_S = (each - np.concatenate([np.zeros(RATED), each])[: len(each)] for each in total)
    rate_S = np.divide(posts_S, seconds_S, out=np.full(len(posts_S), np.nan), where=seconds_S > 0)
    return metrics["step"], rate_S


def group_bars(runs: Sequence[ReportRun], scored: Sequence[RunScores], metric: str) -> BarChart:
    """Bars of a metric by group and run, as in the paper's Figure 1b."""
    rows = []
    for run, each in zip(runs, scored, strict=True):
        cells = []
        for group in GROUPS:
            found = each.scores.get(group)
            interval = (each.intervals.get(group) or {}).get(metric)
            cells.append((found[metric], interval) if found else None)
        rows.append((run.name, cells))
    return bar_chart(GROUPS, rows)


def loss_tables(runs: Sequence[ReportRun]) -> list[tuple[Table, LineChart | None]]:
    """For each run with saved losses: quantiles by epoch, and the share of posts below each γ."""
    return [_losses(run) for run in runs if "losses" in run.arrays]


def lacks_chains(run: ReportRun) -> bool:
    """Whether the run's strategy learns from chains of thought, but no post that it trained on has one."""
    has_cot_N = run.arrays.get("losses", {}).get("has_cot_N")
    return run.strategy in USES_COT and has_cot_N is not None and not has_cot_N.any()


def _losses(run: ReportRun) -> tuple[Table, LineChart | None]:
    """Losses of one run; shares below a γ are of posts with a chain of thought, since others train on keyphrases."""
    arrays = run.arrays["losses"]
    epoch_N, nll_N = arrays["epoch_N"], arrays["nll_sft_N"]
    has_cot_N = arrays.get("has_cot_N", np.ones(len(nll_N), bool))
    rows, series = [], []
    is_finite_N = np.isfinite(nll_N)
    for epoch in np.unique(epoch_N[is_finite_N]).tolist():
        is_here_N = (epoch_N == epoch) & is_finite_N
        found_N, with_cot_N = nll_N[is_here_N], nll_N[is_here_N & has_cot_N]
        mean = found_N.mean()
        quantiles = (f"{each:.3f}" for each in np.quantile(found_N, QUANTILES))
        below = (share(int((with_cot_N < gamma).sum()), len(with_cot_N)) for gamma in (*GAMMAS, mean))
        with_cot = count(len(with_cot_N)) if "has_cot_N" in arrays else "–"
        rows.append((str(epoch + 1), count(len(found_N)), with_cot, *quantiles, f"{mean:.3f}", *below))
        if len(with_cot_N):
            shares = np.searchsorted(np.sort(with_cot_N), GAMMA_AXIS, side="left") / len(with_cot_N)
            series.append((f"epoch {epoch + 1}", GAMMA_AXIS, shares))
    header = ("epoch", "posts", "with CoT", *(f"{100 * each:g}%" for each in QUANTILES), "mean")
    header = (*header, *(f"γ {each:g}" for each in GAMMAS), "γ = mean")
    notes = [
        "quantiles and mean of a post's SFT loss, nats a label; under each γ, the share of the posts with a chain of"
        " thought that it puts on CoT"
    ]
    if "has_cot_N" not in arrays:
        notes.append("the run did not record which posts have a chain of thought: all are counted as if they had one")
    elif not has_cot_N.any():
        notes.append(NO_CHAIN)
    title = "Share of the posts with a chain of thought whose SFT loss is below γ"
    chart = line_chart(title, series, x_name="γ", y_end=1.0, smooth=False) if series else None
    return Table(plain(run.name, 60), header, rows, notes), chart


def clusters(runs: Sequence[ReportRun], by_tsne: bool = False) -> list[Clusters]:
    """The paper's Figure 3 for each run with hidden states: posts of the most frequent keyphrases, by PCA or t-SNE.

    Raises:
        InputError: t-SNE is requested, but scikit-learn is not installed.
    """
    project = tsne if by_tsne else pca
    return [_clusters(run, project) for run in runs if "hidden" in run.arrays]


def _clusters(run: ReportRun, project: Callable[[np.ndarray], tuple[np.ndarray, str]]) -> Clusters:
    id_N, hidden_ND = run.arrays["hidden"].values()
    row_of = {
        str(each): row
        for row, each in enumerate(id_N)
        if (np.abs(hidden_ND[row].astype(float)) < MAX_STATE_VALUE).all()
    }
    phrases = [[phrase.lower() for phrase in answer.keyphrases] for answer in run.answers]
    carried = Counter(phrase for each in phrases for phrase in dict.fromkeys(each))
    keyphrases = [phrase for phrase, _ in carried.most_common(MOST_FREQUENT)]
    shown = []
    for answer, own in zip(run.answers, phrases, strict=True):
        frequent = [number for number, phrase in enumerate(keyphrases) if phrase in own]
        if len(frequent) == 1 and answer.id in row_of:  # a post of two of them belongs to no single cluster
            shown.append((answer.id, frequent[0]))
    if len(shown) < 3:
        return Clusters(run.name, [], [], "fewer than three posts have one of the most frequent keyphrases")
    point_N2, how = project(hidden_ND[[row_of[each] for each, _ in shown]])
    low_2, range_2 = point_N2.min(axis=0), np.ptp(point_N2, axis=0)
    range_2 = np.maximum(
        range_2, 1e-6 * range_2.max() or 1.0
    )  # keeps rounding errors small on an axis without variance
    at_N2 = (point_N2 - low_2) / range_2 * (WIDTH, HEIGHT)
    dots = [
        Dot(float(x), float(HEIGHT - y), colour, f"{post}: {keyphrases[colour]}")
        for (x, y), (post, colour) in zip(at_N2, shown, strict=True)
    ]
    return Clusters(run.name, dots, keyphrases, f"{count(len(shown))} posts; {how}")


def pca(hidden_ND: np.ndarray) -> tuple[np.ndarray, str]:
    """The rows projected on the two directions of most variance [N, 2], and a line with their share of the variance."""
    centred_ND = hidden_ND.astype(np.float64) - hidden_ND.mean(axis=0, dtype=np.float64)
    left_NK, size_K, _ = np.linalg.svd(centred_ND, full_matrices=False)
    explained = float((size_K[:2] ** 2).sum() / max((size_K**2).sum(), 1e-300))
    return left_NK[:, :2] * size_K[:2], f"PCA: the two axes hold {share(explained, 1)} of the variance"


def tsne(hidden_ND: np.ndarray) -> tuple[np.ndarray, str]:
    """The rows projected by t-SNE (van der Maaten and Hinton, 2008) from a PCA start [N, 2], and a line about it.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise InputError(
            "t-SNE needs scikit-learn", "--tsne", "pip install 'mmkp_jax[tsne]', or leave out the flag"
        ) from None
    perplexity = min(PERPLEXITY, (len(hidden_ND) - 1) / 3)
    made = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(hidden_ND.astype(np.float32))
    return (
        made,
        f"t-SNE, perplexity {perplexity:.0f}: what is near matters, not how far apart clusters are",
    )
