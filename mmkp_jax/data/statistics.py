"""Statistics of a dataset: one pass over each split, which keeps counts and a few integers a post.

N is the posts of a split.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmkp_jax.data.examples import Recipe
from mmkp_jax.data.images import MAX_ASPECT
from mmkp_jax.data.posts import Post, Record, reject_from
from mmkp_jax.data.records import reject_rows
from mmkp_jax.data.size_index import Records, digest

LISTED = 3
"""Examples listed of each kind of duplicate or reject."""

FAR_OFF = 1.5
"""Multiple of the 99.5th percentile beyond which a histogram does not reach to the largest value."""

COMPARED = ("text", "image", "id")
"""What two posts may have in common."""


class Group(NamedTuple):
    """Counts of one group of keyphrases, such as present ones."""

    keyphrases: int
    """Keyphrases, each counted as often as posts carry it."""
    posts: int
    """Posts that carry at least one."""


@dataclasses.dataclass(frozen=True, eq=False)
class SplitStatistics:
    """The posts of one split, counted."""

    posts: int
    without_text: int
    without_image: int
    with_cot: int
    hidden: int
    """Keyphrases that count as absent only because punctuation is attached to words of the text."""
    groups: dict[str, Group | None]
    """Groups by the metric's names: all, present, absent, seen, unseen; the last two None without training posts."""
    unique: Counter[str]
    """Count of each keyphrase, lower-cased as for the groups seen and unseen."""
    width_N: np.ndarray
    """int32: pixels of the upright image; 0 without one."""
    height_N: np.ndarray
    text_tokens_N: np.ndarray | None
    """int32: tokens of the whole text, before any is trimmed; None where no tokenizer was given."""
    digest_N: dict[str, np.ndarray]
    """uint64 for each of `COMPARED`: hashes; 0 where there is nothing."""


def gather_statistics(
    records: Records,
    stem_words: Callable[[Iterable[str]], str],
    *,
    hidden_in: Callable[[Record], Sequence[str]] = lambda _: (),
    train: Collection[str] | None = None,
    recipe: Recipe | None = None,
    progress: Callable[[range], Iterable[int]] = iter,
) -> SplitStatistics:
    """The statistics of a split, in one pass.

    Args:
        stem_words: stems words and joins them by spaces (`evaluation.stemming.stem_words`).
        hidden_in: gives the keyphrases that punctuation hides (`evaluation.tokenised.hidden_in`).
        train: the training keyphrases, lower-cased.
        recipe: its tokenizer counts the tokens of each text.
        progress: wraps the numbers of the posts, to show progress.
    """
    seen, carried, carriers = Counter(), Counter(), Counter()
    unique: Counter[str] = Counter()
    sizes_N3 = np.zeros((len(records), 3), np.int32)
    digest_N = {what: np.zeros(len(records), np.uint64) for what in COMPARED}
    for number in progress(range(len(records))):
        record = records[number]
        text = record.text.strip()
        seen.update(text=bool(text), image=bool(record.image), cot=record.cot is not None)
        tokens = len(recipe.template.plain.encode(text, add_special_tokens=False)) if recipe else 0
        sizes_N3[number] = record.width, record.height, tokens
        for what, data in (("text", text.encode()), ("image", record.image), ("id", record.id.encode())):
            digest_N[what][number] = digest(data)
        groups = Counter(_groups(record, stem_words, train))
        carried.update(groups)
        carriers.update(groups.keys())
        seen["hidden"] += len(hidden_in(record))
        unique.update(_folded(record))
    names = ("all", "present", "absent", *(("seen", "unseen") if train is not None else ()))
    width_N, height_N, tokens_N = sizes_N3.T
    return SplitStatistics(
        posts=len(records),
        without_text=len(records) - seen["text"],
        without_image=len(records) - seen["image"],
        with_cot=seen["cot"],
        hidden=seen["hidden"],
        groups={"seen": None, "unseen": None} | {name: Group(carried[name], carriers[name]) for name in names},
        unique=unique,
        width_N=width_N,
        height_N=height_N,
        text_tokens_N=tokens_N if recipe else None,
        digest_N=digest_N,
    )


def _folded(record: Record) -> list[str]:
    return [keyphrase.strip().lower() for keyphrase in record.keyphrases]


def _groups(record: Record, stem_words: Callable[[Iterable[str]], str], train: Collection[str] | None) -> Iterator[str]:
    """The groups of each keyphrase, as the metric has them (its rule 7), but with repeats."""
    text = f" {stem_words(record.text.split())} "
    for keyphrase in _folded(record):
        yield "all"
        yield "present" if f" {stem_words(keyphrase.split(' '))} " in text else "absent"
        if train is not None:
            yield "seen" if keyphrase in train else "unseen"


def train_overlap(statistics: SplitStatistics, train: Collection[str]) -> float:
    """The share of a split's different keyphrases that are among the training keyphrases, 0–1 (the paper's Table 2)."""
    return sum(keyphrase in train for keyphrase in statistics.unique) / max(len(statistics.unique), 1)


class SharedPosts(NamedTuple):
    """The posts of two splits that have something in common."""

    first: int
    """Posts of the first split that share it with one of the second."""
    second: int
    pairs: list[tuple[int, int]]
    """The first few pairs: the numbers of the two posts."""


def find_shared(first_N: np.ndarray, second_N: np.ndarray) -> SharedPosts:
    """The posts that two splits share, by their digests."""
    shared = np.intersect1d(first_N, second_N)
    in_first, in_second = (np.flatnonzero(np.isin(each, shared[shared > 0])) for each in (first_N, second_N))
    pairs = [(int((first_N == second_N[number]).argmax()), number) for number in in_second[:LISTED].tolist()]
    return SharedPosts(len(in_first), len(in_second), pairs)


def repeats(digest_N: np.ndarray) -> SharedPosts:
    """The posts of one split that repeat an earlier one of it; `first` counts the earlier ones."""
    _, first_U, count_U = np.unique(digest_N, return_index=True, return_counts=True)
    is_later_N = digest_N > 0
    is_later_N[first_U] = False
    later = np.flatnonzero(is_later_N)
    pairs = [(int((digest_N == digest_N[number]).argmax()), number) for number in later[:LISTED].tolist()]
    return SharedPosts(int((count_U[digest_N[first_U] > 0] > 1).sum()), len(later), pairs)


class Distribution(NamedTuple):
    """Mean and quantiles of some integers."""

    count: int
    mean: float
    median: float
    p95: float
    p99: float
    most: int


def distribution(values: np.ndarray) -> Distribution | None:
    """The distribution of the values; None for no values."""
    if not len(values):
        return None
    median, p95, p99 = np.percentile(values, (50, 95, 99), method="inverted_cdf").tolist()
    return Distribution(len(values), float(values.mean()), median, p95, p99, int(values.max()))


class Histogram(NamedTuple):
    """Counts of integers in bins of one width; bin `b` goes from `b * width` to before `(b + 1) * width`."""

    width: int
    count_B: np.ndarray
    beyond: int
    """Values past the last bin: a long tail would flatten the rest."""


def histogram(values: np.ndarray, bins: int = 40) -> Histogram:
    """Bins from 0 on, at most `bins`, a bin's width being 1, 2 or 5 times 10^k.

    They hold all values or, where the largest is far off, 99.5% of them.
    """
    end = int(np.percentile(values, 99.5, method="inverted_cdf")) + 1 if len(values) else 1
    end = int(values.max()) + 1 if len(values) and values.max() < FAR_OFF * end else end
    width = next(nice for k in range(19) for nice in (10**k, 2 * 10**k, 5 * 10**k) if nice * bins >= end)
    count_B = np.bincount(values // width, minlength=1)
    shown = -(-end // width)
    return Histogram(width, count_B[:shown], int(count_B[shown:].sum()))


_FIELDS = {*(each.name for each in dataclasses.fields(Post)), "images"}
_ASPECT = f"{MAX_ASPECT}:1"
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_HELD = re.compile(r"^('\w+' is) .*", re.DOTALL)
_NUMBER = re.compile(rf"\b{_ASPECT}\b|(?<![\w-])\d[\d,.]*")


class RejectReason(NamedTuple):
    """The rows rejected from a dataset for one kind of reason."""

    count: int
    examples: list[str]
    """The first few, as `where: reason`."""


def reject_reasons(out: str | Path) -> dict[tuple[str, str], RejectReason]:
    """The rejects of the dataset in the folder `out`, by (split, kind of reason), in the file's order.

    Reasons that differ only in names and numbers count as one kind.

    Raises:
        InputError: the list cannot be read.
    """
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], list[str]] = {}
    for row in reject_rows(Path(out)):
        reject = reject_from(row)
        image = reject.post and reject.post.image
        kind = row.text("split"), _kind(reject.reason.removesuffix(f": {image}"))
        counts[kind] += 1
        if len(kept := examples.setdefault(kind, [])) < LISTED:
            kept.append(f"{reject.id or f'{reject.file}:{reject.line}'}: {reject.reason}")
    return {kind: RejectReason(count, examples[kind]) for kind, count in counts.items()}


def _kind(reason: str) -> str:
    """The reason without its particulars: quoted names except fields', values of fields, and numbers."""
    unnamed = _QUOTED.sub(lambda quoted: quoted[0] if quoted[0][1:-1] in _FIELDS else "…", reason)
    return _NUMBER.sub(lambda number: number[0] if number[0] == _ASPECT else "N", _HELD.sub(r"\1 …", unnamed))
