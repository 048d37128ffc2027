"""Summary of ranks: mean ranks with intervals and agreement of raters, as a table and as plain values.

Legend: `P` posts, `O` raters of a post (orders or people), `C` criteria, `N` systems.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmkp_jax.judging.agreement import Mean, bootstrap_means, kendall_w, krippendorff_alpha
from mmkp_jax.judging.ranking import CRITERIA, average_ties

ALL = "all"
"""The mean of the criteria."""


@dataclass
class RankSummary:
    """Mean ranks over the posts that every rater ranked; lower is better."""

    systems: list[str]
    posts: int
    raters: int
    means: dict[str, dict[str, Mean]]
    """Mean rank by system and criterion, ties averaged."""
    written: dict[str, float]
    """Mean rank by system over all criteria, as the ranks were written: systems that tie may all be first."""
    w: float
    """Kendall's W between raters, as a mean over posts and criteria; NaN for one rater."""
    alpha: dict[str, float]
    """Krippendorff's alpha between raters, by criterion."""

    def as_json(self) -> dict[str, Any]:
        """The summary as plain values, with null for NaN."""
        means = {name: {c: mean._asdict() for c, mean in each.items()} for name, each in self.means.items()}
        return _plain(vars(self) | {"means": means})

    def lines(self) -> list[str]:
        """Lines of a table, with a title and the agreement."""
        width = max(map(len, self.systems))
        head = "".join(f"{name:>13}" for name in CRITERIA) + f"{ALL:>8}{'95% interval':>16}{'as written':>12}"
        rows = [
            f"{name:<{width}}"
            + "".join(f"{self.means[name][criterion].value:>13.2f}" for criterion in CRITERIA)
            + f"{self.means[name][ALL].value:>8.2f}"
            + f"{self.means[name][ALL].low:>10.2f}–{self.means[name][ALL].high:.2f}"
            + f"{self.written[name]:>12.2f}"
            for name in sorted(self.systems, key=lambda name: self.means[name][ALL].value)
        ]
        alphas = ", ".join(f"{criterion} {_text(value)}" for criterion, value in self.alpha.items())
        return [
            f"mean rank of {len(self.systems)} systems on {self.posts:,} posts, 1 is the best, ties averaged",
            " " * width + head,
            *rows,
            f"agreement of {self.raters:,} ratings a post: Kendall's W {_text(self.w)}; Krippendorff's alpha: {alphas}",
        ]


def summarize_ranks(systems: Sequence[str], written_POCN: np.ndarray) -> RankSummary | None:
    """Summarizes the ranks of the posts that have all of them; None where no post has.

    Args:
        written_POCN: ranks as they were written; NaN where missing.
    """
    whole_P = ~np.isnan(written_POCN).any(axis=(1, 2, 3))
    if not whole_P.any():
        return None
    written_POCN = written_POCN[whole_P]
    ranks_POCN = average_ties(written_POCN)
    raters = ranks_POCN.shape[1]
    mean_PCN = ranks_POCN.mean(axis=1)
    values_PK = np.concatenate([mean_PCN, mean_PCN.mean(axis=1, keepdims=True)], axis=1)
    posts, columns, n = values_PK.shape
    means = bootstrap_means(values_PK.reshape(posts, columns * n))
    of = {(c, s): means[i * n + j] for i, c in enumerate([*CRITERIA, ALL]) for j, s in enumerate(systems)}
    between = raters > 1
    ws = [kendall_w(ranks_ON) for each in ranks_POCN for ranks_ON in each.transpose(1, 0, 2)] if between else []
    ws = [w for w in ws if not math.isnan(w)]
    ratings_CRU = ranks_POCN.transpose(2, 1, 0, 3).reshape(len(CRITERIA), raters, -1)
    alphas = [krippendorff_alpha(each) if between else math.nan for each in ratings_CRU]
    return RankSummary(
        list(systems),
        posts,
        raters,
        {name: {criterion: of[criterion, name] for criterion in [*CRITERIA, ALL]} for name in systems},
        dict(zip(systems, written_POCN.mean(axis=(0, 1, 2)).tolist(), strict=True)),
        sum(ws) / len(ws) if ws else math.nan,
        dict(zip(CRITERIA, alphas, strict=True)),
    )


def tau_b(a_PCN: np.ndarray, b_PCN: np.ndarray) -> dict[str, float]:
    """Kendall's tau-b between two judges' ranks of the systems: by criterion, as a mean over posts, and of their
    overall mean ranks (`systems`). NaN where one of them ties all.
    """
    from scipy.stats import kendalltau  # takes half a second, which no list of flags needs

    found = {}
    for c, criterion in enumerate(CRITERIA):
        taus = [kendalltau(a_N, b_N).statistic for a_N, b_N in zip(a_PCN[:, c], b_PCN[:, c], strict=True)]
        taus = [tau for tau in taus if not math.isnan(tau)]
        found[criterion] = sum(taus) / len(taus) if taus else math.nan
    found["systems"] = float(kendalltau(a_PCN.mean(axis=(0, 1)), b_PCN.mean(axis=(0, 1))).statistic)
    return found


def _text(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
