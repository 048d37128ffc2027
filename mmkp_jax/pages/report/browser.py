"""The posts with each run's predictions, as plain values for the page's script, within a limit of bytes."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mmkp_jax.data.image_files import ImageError
from mmkp_jax.data.images import decode
from mmkp_jax.evaluation.metric import GROUPS
from mmkp_jax.evaluation.outputs import FORMS
from mmkp_jax.evaluation.predictions import Prediction
from mmkp_jax.pages.render import jpeg
from mmkp_jax.pages.report.data import ReportData
from mmkp_jax.pages.report.neighbours import stemmed
from mmkp_jax.pages.report.runs import ReportRun
from mmkp_jax.pages.report.scores import VERDICTS, RunScores
from mmkp_jax.runtime.escape import for_script

TEXT_BYTES = 8_000_000
"""Limit of all texts and outputs together; above it, the longest are shortened."""
PHRASES = 10
"""Predicted keyphrases shown of a prediction."""
MAX_IMAGES, IMAGE_BYTES = 500, 8_000_000
"""Limits of the images in a page: their number, and their bytes."""
SIDE = 160
"""Most pixels of a thumbnail's side."""
DECODERS = 4
"""Threads that decode images."""


def browser_data(runs: Sequence[ReportRun], scored: Sequence[RunScores], data: ReportData | None) -> dict[str, Any]:
    """The data that browser.js shows.

    `posts`: for each its id, text, keyphrases, groups (indices into `groups`), image (a `data:` URL, or empty), whether
    the runs differ, and for each run verdict and form (also indices), predicted keyphrases, whether each of these is
    right, how many more there are, and output. `cut`: number of shortened texts and outputs.
    """
    verdict_RN = np.stack([each.verdict_N() for each in scored])
    in_group = {group: scored[0].in_group_N(group) for group in GROUPS}
    texts = [post.text for post in data.test] if data else [""] * len(runs[0].answers)
    sizes = [_size(text) for text in [*texts, *(answer.output for run in runs for answer in run.answers)]]
    most = common_size(sizes, TEXT_BYTES)
    answers = list(zip(*(run.answers for run in runs), strict=True))
    differ_N = np.array([_differ(each) for each in answers])
    images: dict[int, str] = {}
    if data:
        some_right_N = (verdict_RN != verdict_RN[0]).any(axis=0)
        kinds = [some_right_N, differ_N, *(in_group[group] for group in reversed(GROUPS))]
        images = thumbnails(data.test_image, choose_evenly(kinds, MAX_IMAGES))
    posts = []
    for number, text in enumerate(texts):
        first = answers[number][0]
        gold = {stemmed(phrase) for phrase in first.keyphrases}
        groups = [index for index, group in enumerate(GROUPS) if in_group[group][number]]
        verdicts = verdict_RN[:, number].tolist()
        rows = [
            _prediction_row(each, gold, verdict, most) for each, verdict in zip(answers[number], verdicts, strict=True)
        ]
        post = first.id, shorten(text, most), [shorten(phrase, most) for phrase in first.keyphrases]
        posts.append([*post, groups, images.get(number, ""), int(differ_N[number]), rows])
    return {
        "runs": [run.name for run in runs],
        "groups": GROUPS,
        "verdicts": VERDICTS,
        "forms": FORMS,
        "posts": posts,
        "images": len(images),
        "cut": sum(size > most for size in sizes),
    }


def _prediction_row(answer: Prediction, gold: set[str], verdict: int, most: int) -> list[Any]:
    shown = answer.predicted[:PHRASES]
    hits = [int(stemmed(phrase) in gold) for phrase in shown]
    more = len(answer.predicted) - len(shown)
    output = shorten(answer.output, most)
    return [verdict, FORMS.index(answer.form), [shorten(phrase, most) for phrase in shown], hits, more, output]


def _differ(answers: Sequence[Prediction]) -> bool:
    """Whether the runs predict different keyphrases, in any order."""
    return len({frozenset(map(stemmed, answer.predicted)) for answer in answers}) > 1


def choose_evenly(kinds: Sequence[np.ndarray], most: int) -> list[int]:
    """Numbers of at most `most` posts, one of each kind (bool [N]) in turn, so that each kind has its share."""
    turns = itertools.zip_longest(*(np.flatnonzero(each).tolist() for each in kinds))
    in_turn = dict.fromkeys(number for turn in turns for number in turn if number is not None)
    return list(itertools.islice(in_turn, most))


def thumbnails(read: Callable[[int], bytes], numbers: Sequence[int]) -> dict[int, str]:
    """Thumbnails of the posts' images as `data:` URLs by number; the first ones if they take too many bytes.

    A post without an image, or with a damaged one, has no thumbnail.
    """
    with ThreadPoolExecutor(DECODERS) as pool:
        made = list(pool.map(lambda number: thumbnail(read(number)), numbers))
    total_N = np.cumsum([len(image) for image in made])
    fit = zip(numbers, made, (total_N <= IMAGE_BYTES).tolist(), strict=True)
    return {number: image for number, image, fits in fit if fits and image}


def thumbnail(data: bytes) -> str:
    """A thumbnail of an image file's bytes as a `data:` URL, at most `SIDE` pixels wide and high; empty if damaged."""
    try:
        return jpeg(np.asarray(decode(data, edge=SIDE)))
    except ImageError:
        return ""


def common_size(sizes: Sequence[int], budget: int) -> int:
    """The largest size to which all must be shortened so that together they fit the budget."""
    size_N = np.sort(np.asarray(sizes, np.int64))
    before_N = np.cumsum(size_N) - size_N
    left_N = np.arange(len(size_N), 0, -1)
    is_over_N = before_N + size_N * left_N > budget
    if not is_over_N.any():
        return int(size_N[-1]) if len(size_N) else budget
    first = int(is_over_N.argmax())
    return int((budget - before_N[first]) // left_N[first])


def shorten(text: str, most: int) -> str:
    """The text, or its beginning and `…` if it takes more than `most` bytes in the page."""
    shown = text
    while (size := _size(shown)) > most:
        shown = shown[: len(shown) * most // size]
    return shown if shown == text else f"{shown}…"


def _size(text: str) -> int:
    return len(for_script(text).encode("utf-8", "replace"))
