"""Semantic precision, recall and F1: how near predictions and targets are to each other in an embedding.

As Wu et al. (Findings of ACL 2024, "KPEval") define semantic matching: a prediction's score is its largest cosine to a
target, precision the mean of these over a post's predictions; a target's score is its largest cosine to a prediction,
recall the mean over the post's *targets*. A match after stemming counts as 1. Here no cosine is set to 0 by a
threshold, F1 is of the means over posts, as in CMKP's rule 5, and a post without predictions has 0 for both.

Legend: `T` targets of a post, `Q` its predictions, `E` width of an embedding.
"""

from collections.abc import Callable, Sequence

import numpy as np

from mmkp_jax.evaluation.metric import Phrases, PostLike, harmonic_mean, predicted_phrases, target_phrases

SEMANTIC = ("precision", "recall", "f1")

Embed = Callable[[Sequence[str]], np.ndarray]
"""Maps texts to embeddings, a row each."""


def semantic_scores(posts: Sequence[PostLike], predictions: Sequence[Phrases], embed: Embed) -> dict[str, float] | None:
    """`n` (posts with a target), and `precision`, `recall` and `f1` as fractions; None without any such post.

    Args:
        posts, predictions: as for `metric.score`; phrases count by its rules 1 to 3, without empty ones.
        embed: called once, with the distinct raw lower-cased phrases.
    """
    pairs = [
        (targets, {stemmed: raw for stemmed, raw in predicted_phrases(each).items() if stemmed})
        for post, each in zip(posts, predictions, strict=True)
        if (targets := target_phrases(post.keyphrases))
    ]
    if not pairs:
        return None
    row_of: dict[str, int] = {}
    for pair in pairs:
        for raw in (*pair[0].values(), *pair[1].values()):
            row_of.setdefault(raw, len(row_of))
    rows = embed(list(row_of)).astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(length > 0, length, 1)
    means = np.mean([_post_scores(rows, row_of, *pair) for pair in pairs], axis=0)
    precision, recall = map(float, means)
    return {"n": len(pairs), "precision": precision, "recall": recall, "f1": float(harmonic_mean(*means))}


def _post_scores(
    rows: np.ndarray, row_of: dict[str, int], targets: dict[str, str], predicted: dict[str, str]
) -> tuple[float, float]:
    """Precision and recall of one post."""
    if not predicted:
        return 0.0, 0.0
    target_TE, predicted_QE = (rows[[row_of[raw] for raw in each.values()]] for each in (targets, predicted))
    cosine_QT = predicted_QE @ target_TE.T
    equal_QT = np.array(list(predicted))[:, None] == np.array(list(targets))
    cosine_QT = np.where(equal_QT, 1, cosine_QT)
    return cosine_QT.max(axis=1).mean(), cosine_QT.max(axis=0).mean()
