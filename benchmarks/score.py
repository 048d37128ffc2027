"""Time of the metric: 50,000 posts, counts by group and intervals, against plain loops with the same scores.

    python -m benchmarks.score [--posts=N]

The posts are made up: texts of 5 to 25 words from a vocabulary of 20,000 with Zipf's frequencies, 1 to 3 keyphrases of
1 or 2 words, a third of them out of the text, up to 5 predictions. The other side is the tests' second implementation,
one post and one group at a time, with its own cache of stems. Processor seconds, each of a process with empty caches.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import describe_machine
from mmkp_jax.evaluation.metric import GROUPS, METRICS, per_post, score, scores_of
from mmkp_jax.evaluation.significance import RESAMPLES, compare, intervals
from tests.support.naive_metric import naive_scores
from tests.support.shared_folder import TextPost


class Case(NamedTuple):
    """Posts and their predictions."""

    posts: list[TextPost]
    lines: list[str]
    others: list[str]
    """Another system's predictions."""
    train: set[str]


def made_up(n: int) -> Case:
    """Generated posts, the same each time."""
    rng = np.random.default_rng(0)
    endings = ["", "s", "ing", "ed", "ly", "ation", "ness", "er"]
    words = [f"{rng.choice(list('bcdfglmnprst'))}{number:x}{endings[number % 8]}" for number in range(20_000)]
    chance = 1 / np.arange(1, len(words) + 1)
    drawn = iter(rng.choice(words, 60 * n, p=chance / chance.sum()).tolist())

    def phrase(text: list[str]) -> str:
        start = rng.integers(len(text))
        of_text = rng.random() < 1 / 3
        return " ".join(text[start : start + 2] if of_text else [next(drawn) for _ in range(rng.integers(1, 3))])

    posts, predictions = [], ([], [])
    for _ in range(n):
        text = [next(drawn) for _ in range(rng.integers(5, 26))]
        keyphrases = [phrase(text) for _ in range(rng.integers(1, 4))]
        posts.append(TextPost(" ".join(text), tuple(keyphrases)))
        for lines, rate in zip(predictions, (0.5, 0.48), strict=True):
            right = [each for each in keyphrases if rng.random() < rate]
            lines.append(";".join([*right, *(phrase(text) for _ in range(rng.integers(0, 3)))]))
    train = {keyphrase for post in posts[: n // 2] for keyphrase in post.keyphrases}
    return Case(posts, *predictions, train)


def ours(case: Case) -> dict[str, Any]:
    return score(case.posts, case.lines, case.train)


def plain_loops(case: Case) -> dict[str, Any]:
    return naive_scores(case.posts, case.lines, case.train)


def with_intervals(case: Case) -> dict[str, Any]:
    run = per_post(case.posts, case.lines, case.train)
    return {"scores": scores_of(run), "intervals": intervals([run])}


def compared(case: Case) -> dict[str, Any]:
    a, b = (per_post(case.posts, lines, case.train) for lines in (case.lines, case.others))
    return {"scores": scores_of(a), "differences": compare([a], [[b]])}


def timed(task: tuple[Callable[[Case], dict[str, Any]], int]) -> tuple[float, dict[str, Any]]:
    """Processor seconds of the call alone, and what it returns."""
    function, n = task
    case = made_up(n)
    start = time.process_time()
    result = function(case)
    return time.process_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=50_000)
    n = parser.parse_args().posts
    print(f"{n:,} posts, {RESAMPLES:,} resamples; {describe_machine()}")
    functions = (ours, plain_loops, with_intervals, compared)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        found = pool.map(timed, [(function, n) for function in functions], chunksize=1)
    (our_time, our_scores), (their_time, their_scores), (interval_time, _), (compare_time, result) = found
    off = max(abs(our_scores[group][name] - their_scores[group][name]) for group in GROUPS for name in ("n", *METRICS))
    print(f"scores of all groups       {our_time:6.1f} s")
    print(f"by plain loops             {their_time:6.1f} s, {their_time / our_time:.1f}x; scores differ by {off:.0e}")
    print(f"scores and intervals       {interval_time:6.1f} s")
    print(f"two systems and difference {compare_time:6.1f} s, p = {result['differences'][0]['all']['f1@1'].p:.4f}")


if __name__ == "__main__":
    main()
