"""CMKP's keyphrase metric (Wang et al., EMNLP 2020), with the groups of arXiv 2510.09358.

The rules, cited by number below:
1. Targets and predictions are split on `;`, phrases on single spaces; a word is stripped, lower-cased, Porter-stemmed.
2. Of predictions, repeats after stemming (the first stays) and phrases with the word `<unk>`, `,` or `.` are dropped;
   of targets, repeats after stemming.
3. A match is equality of stemmed phrases. An empty prediction line is one empty phrase: it counts as a prediction and
   never matches.
4. At k, n = min(k, predictions left), at M all of them: P = hits/n, R = hits/targets; without predictions both are 0.
5. F1@k is the harmonic mean of the mean precision and the mean recall over posts.
6. AP@k = Σ precision@i · hit_i / targets. NDCG@k has binary gain and log2(rank + 1); its ideal order is the post's own
   hits sorted first over all its predictions.
7. A group filters targets and predictions, then the top k of what is left is taken; means run over the posts with a
   target in the group. Present: the stemmed phrase is a contiguous run of the stemmed text. Seen: the raw lower-cased
   phrase is a training keyphrase.
8. Present and absent go by the post's text; OCR words may be appended to it.

Ours, where the protocol says nothing: an empty target is no target, and a post without targets is in no group.

Beyond the protocol, by the same rules:
9. F1@O is F1@k with k = the post's own number of targets, in a group of those of the group (Yuan et al., ACL 2020, "One
   Size Does Not Fit All"; they take the mean of the posts' F1, here it is rule 5's).
10. HitRate@k is the share of posts with at least one hit among the first k. HitRate@1 is P@1.

Legend: `N` posts, `Q` predicted phrases of all posts, `K` cut-offs 1, 3, 5, M, `V` values of a post (`post_values`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.stemming import stem_words

GROUPS = ("all", "present", "absent", "seen", "unseen")
PROTOCOL = ("p@1", "r@1", "f1@1", "f1@3", "f1@5", "f1@M", "map@5", "ndcg@5")
"""The metrics of CMKP's protocol."""
FURTHER = ("f1@O", "hit@1", "hit@3", "hit@5")
"""The metrics of rules 9 and 10, which scores of earlier versions do not have."""
METRICS = PROTOCOL + FURTHER
CUTOFFS = {"1": 1, "3": 3, "5": 5, "M": np.iinfo(np.int64).max}
RANKED = 5  # the k of MAP and NDCG

UNWANTED = frozenset(("<unk>", ",", "."))

Phrases = Sequence[str] | str
"""A post's phrases: a list of them, or a line that joins them by `;`."""
GroupsOf = Callable[[str, str], int]
"""Maps (stemmed phrase, raw phrase) of one post to the groups that it is in, one bit each."""
Scores = Mapping[str, Mapping[str, float] | None]
"""`{group: {"n", *METRICS}}`; None for a group that cannot be formed."""


class PostLike(Protocol):
    """A post as the metric needs it."""

    @property
    def text(self) -> str: ...
    @property
    def keyphrases(self) -> Sequence[str]: ...


class PostCounts(NamedTuple):
    """One group's counts by post; `targets_N` is 0 for a post without a target in the group."""

    targets_N: np.ndarray
    predictions_NK: np.ndarray
    hits_NK: np.ndarray
    ap_N: np.ndarray
    ndcg_N: np.ndarray
    hits_at_targets_N: np.ndarray
    """Hits among as many predictions as the post has targets (rule 9)."""


def score(
    posts: Sequence[PostLike],
    predictions: Sequence[Phrases],
    train_keyphrases: Collection[str] | None = None,
    ocr: Sequence[str] | None = None,
) -> dict[str, dict[str, float] | None]:
    """`METRICS` as fractions, and `n`, the posts that they are means of, for each of `GROUPS`.

    Args:
        posts: each with its text and its target keyphrases.
        predictions: the ranked predictions of each post, in the posts' order.
        train_keyphrases: the keyphrases that count as seen; without it seen and unseen are None, like any group without
            posts.
        ocr: the words recognised in each post's image, which count as text (rule 8).

    Raises:
        InputError: the number of predictions or OCR lines is not that of the posts.
    """
    return scores_of(per_post(posts, predictions, train_keyphrases, ocr))


def score_by_kind(
    posts: Sequence[PostLike], predictions: Sequence[Phrases], kinds: Mapping[str, str]
) -> dict[str, dict[str, float] | None]:
    """`score` with the caller's own groups, such as what a keyphrase needs to be found.

    Args:
        posts: as for `score`.
        predictions: as for `score`.
        kinds: the kind of each raw lower-cased keyphrase; other keyphrases are of no kind.

    Returns:
        the scores of each kind, in the order that `kinds` first names them; None for one that no post has.
    """
    names = tuple(dict.fromkeys(kinds.values()))
    bit = {phrase: 1 << names.index(kind) for phrase, kind in kinds.items()}
    return scores_of(_per_post(posts, predictions, names, lambda number: lambda _, raw: bit.get(raw, 0)))


def per_post(
    posts: Sequence[PostLike],
    predictions: Sequence[Phrases],
    train_keyphrases: Collection[str] | None = None,
    ocr: Sequence[str] | None = None,
) -> dict[str, PostCounts | None]:
    """The counts behind `score`, one entry a post in the posts' order, so that runs can be compared by post."""
    if ocr is not None:
        _check_length("ocr", ocr, posts)
    seen = None if train_keyphrases is None else frozenset(each.strip().lower() for each in train_keyphrases)
    in_all, in_present, in_absent, in_seen, in_unseen = (1 << index for index in range(len(GROUPS)))

    def groups_of(number: int) -> GroupsOf:
        text = posts[number].text if ocr is None else f"{posts[number].text} {ocr[number]}"
        text = f" {stem_words(text.split())} "

        def groups(stemmed: str, raw: str) -> int:
            present = stemmed != "" and f" {stemmed} " in text
            known = 0 if seen is None else in_seen if raw in seen else in_unseen
            return in_all | (in_present if present else in_absent) | known

        return groups

    return _per_post(posts, predictions, GROUPS, groups_of)


def scores_of(by_group: Mapping[str, PostCounts | None]) -> dict[str, dict[str, float] | None]:
    """The scores for counts by group, as `score` returns them."""
    return {group: None if counts is None else _scores(counts) for group, counts in by_group.items()}


def post_values(counts: PostCounts) -> np.ndarray:
    """`value_NV`: P@K, R@K, AP@5, NDCG@5, P@O, R@O, and 1 for a hit among 3, among 5, of the posts with a target in
    the group.

    `corpus_scores` of its mean over posts is the score; of means over resampled posts, resampled scores.
    """
    counts = PostCounts(*(each[counts.targets_N > 0] for each in counts))
    precision_NK = counts.hits_NK / np.maximum(counts.predictions_NK, 1)  # rule 4: no prediction left is 0
    recall_NK = counts.hits_NK / counts.targets_N[:, None]
    at_targets_N = np.minimum(counts.predictions_NK[:, -1], counts.targets_N)
    precision_N = counts.hits_at_targets_N / np.maximum(at_targets_N, 1)
    recall_N = counts.hits_at_targets_N / counts.targets_N
    hit_NK = counts.hits_NK[:, 1:3] > 0
    return np.column_stack((precision_NK, recall_NK, counts.ap_N, counts.ndcg_N, precision_N, recall_N, hit_NK))


def corpus_scores(mean_V: np.ndarray) -> dict[str, np.ndarray]:
    """`METRICS` from means over posts; leading axes (such as resamples) are kept."""
    cuts = len(CUTOFFS)
    precision_K, recall_K = mean_V[..., :cuts], mean_V[..., cuts : 2 * cuts]
    ap, ndcg, precision, recall, hit_3, hit_5 = np.moveaxis(mean_V[..., 2 * cuts :], -1, 0)
    f1_K = harmonic_mean(precision_K, recall_K)  # rule 5: of the means
    f1 = {f"f1@{k}": f1_K[..., index] for index, k in enumerate(CUTOFFS)}
    ranked = {f"map@{RANKED}": ap, f"ndcg@{RANKED}": ndcg}
    further = {"f1@O": harmonic_mean(precision, recall), "hit@1": precision_K[..., 0], "hit@3": hit_3, "hit@5": hit_5}
    return {"p@1": precision_K[..., 0], "r@1": recall_K[..., 0], **f1, **ranked, **further}


def harmonic_mean(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """F1 of precision and recall; 0 where both are."""
    total = precision + recall
    return 2 * precision * recall / np.where(total > 0, total, 1)


def why_missing(group: str, scores: Scores) -> str:
    """The reason, for people, why `score` returned None for a group."""
    if group in GROUPS and scores["all"] is None:
        return "no post has a keyphrase"
    if group in ("seen", "unseen") and scores["seen"] is None and scores["unseen"] is None:
        return "no training keyphrases were given"  # with them, every keyphrase is one or the other
    return "no post has such a keyphrase"


def _per_post(
    posts: Sequence[PostLike],
    predictions: Sequence[Phrases],
    names: Sequence[str],
    groups_of: Callable[[int], GroupsOf],
) -> dict[str, PostCounts | None]:
    """Counts for each group of `names`, from its bit in the groups that `groups_of(post number)` gives a phrase."""
    _check_length("predictions", predictions, posts)
    post_T, group_T, post_Q, group_Q, hit_Q = [], [], [], [], []
    for number, (post, predicted) in enumerate(zip(posts, predictions, strict=True)):
        groups = groups_of(number)
        targets = {stemmed: groups(stemmed, raw) for stemmed, raw in target_phrases(post.keyphrases).items()}
        post_T += [number] * len(targets)
        group_T += targets.values()
        for stemmed, raw in predicted_phrases(predicted).items():
            post_Q.append(number)
            group_Q.append(groups(stemmed, raw))
            hit_Q.append(group_Q[-1] & targets.get(stemmed, 0))  # rule 7: both sides are filtered to the group
    post_T, group_T, post_Q, group_Q, hit_Q = (
        np.array(each, np.int64) for each in (post_T, group_T, post_Q, group_Q, hit_Q)
    )

    def counts(bit: int) -> PostCounts | None:
        targets_N = np.bincount(post_T[group_T & bit > 0], minlength=len(posts))
        kept_Q = group_Q & bit > 0
        return _counts(targets_N, post_Q[kept_Q], hit_Q[kept_Q] & bit > 0) if targets_N.any() else None

    return {name: counts(1 << index) for index, name in enumerate(names)}


def _check_length(name: str, lines: Sequence, posts: Sequence[PostLike]) -> None:
    if len(lines) != len(posts):
        raise InputError(f"{len(lines)} entries for {len(posts)} posts", name, "give one for each post, in order")


def _scores(counts: PostCounts) -> dict[str, float]:
    value_NV = post_values(counts)
    means = corpus_scores(value_NV.mean(axis=0))
    return {"n": len(value_NV), **{name: float(means[name]) for name in METRICS}}


def _split(phrases: Phrases) -> Iterator[tuple[str, str]]:
    """Each (stemmed phrase, raw phrase) by rule 1; no phrase at all is one empty phrase (rule 3)."""
    line = phrases if isinstance(phrases, str) else ";".join(phrases)
    for each in line.split(";"):
        raw = each.strip().lower()
        yield stem_words(raw.split(" ")), raw


def _first_of_each(phrases: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A map from stemmed to raw phrases, in order, without repeats after stemming (rule 2)."""
    kept: dict[str, str] = {}
    for stemmed, raw in phrases:
        kept.setdefault(stemmed, raw)
    return kept


def target_phrases(phrases: Phrases) -> dict[str, str]:
    """A post's targets, from stemmed to raw, by rules 1 and 2."""
    kept = _first_of_each(_split(phrases))
    kept.pop("", None)
    return kept


def predicted_phrases(phrases: Phrases) -> dict[str, str]:
    """A post's predictions that count, from stemmed to raw, in order of rank, by rules 1 to 3."""
    kept = _first_of_each(_split(phrases))
    return {stemmed: raw for stemmed, raw in kept.items() if UNWANTED.isdisjoint(stemmed.split(" "))}


def _counts(targets_N: np.ndarray, post_Q: np.ndarray, hit_Q: np.ndarray) -> PostCounts:
    """Counts of one group from its predictions; `post_Q` is the post of each, ascending, in order of rank."""

    def total_N(value_Q: np.ndarray) -> np.ndarray:
        return np.bincount(post_Q, value_Q, minlength=len(targets_N))

    predictions_N = total_N(np.ones_like(post_Q)).astype(np.int64)
    first_Q = (np.cumsum(predictions_N) - predictions_N)[post_Q]  # where the post's predictions begin
    rank_Q = np.arange(len(post_Q)) - first_Q + 1
    before_Q = np.cumsum(hit_Q) - hit_Q
    found_Q = before_Q + hit_Q - before_Q[first_Q]  # hits of the post up to this rank

    cuts_K = np.array(list(CUTOFFS.values()))
    hits_NK = np.column_stack([total_N(hit_Q & (rank_Q <= k)) for k in cuts_K]).astype(np.int64)

    top_Q = hit_Q & (rank_Q <= RANKED)
    ap_N = total_N(top_Q * found_Q / rank_Q) / np.maximum(targets_N, 1)
    gain = 1 / np.log2(np.arange(RANKED) + 2)
    ideal_N = np.concatenate(([0.0], np.cumsum(gain)))[np.minimum(hits_NK[:, -1], RANKED)]
    dcg_N = total_N(top_Q / np.log2(rank_Q + 1))
    ndcg_N = dcg_N / np.where(ideal_N > 0, ideal_N, 1)
    at_targets_N = total_N(hit_Q & (rank_Q <= targets_N[post_Q])).astype(np.int64)
    return PostCounts(targets_N, np.minimum(predictions_N[:, None], cuts_K), hits_NK, ap_N, ndcg_N, at_targets_N)
