"""Ranking of systems by a judge: anonymous lists of keyphrases in balanced orders, and the judge's answers.

Legend: `P` posts, `O` orders in which a post is judged, `C` criteria, `N` systems.
"""

import functools
import itertools
import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmkp_jax.data.numbered import Numbered
from mmkp_jax.data.posts import Record
from mmkp_jax.runtime.json_files import read_rows, shown
from mmkp_jax.teacher.answers import content_of, row_verdict
from mmkp_jax.teacher.bodies import NotJson, read_body
from mmkp_jax.teacher.chains import after_thought
from mmkp_jax.teacher.endpoint import Endpoint
from mmkp_jax.teacher.progress import AskState, Rejector
from mmkp_jax.teacher.questions import IMAGE_EDGE, Question, QuestionOf, ask_about
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.templates import Template

CRITERIA = {
    "correctness": "the keyphrases are right for what the post says and shows",
    "relevance": "they are about what matters most in it",
    "usefulness": "they would help people to find the post",
}
LABELS = string.ascii_uppercase

RANK = Template(
    "You compare systems that predict keyphrases (hashtags) for social-media posts. You are given the text of a post, "
    "its image, and one list of keyphrases from each system, in no particular order. Rank the lists on each of three "
    "criteria: " + "; ".join(f"{name} ({what})" for name, what in CRITERIA.items()) + ". Rank 1 is the best; lists "
    "that are equally good share a rank. Judge what the keyphrases say, not how many they are or where they stand. "
    'Answer with one JSON object alone, with a rank for every list, like this: {"correctness": {"A": 1, "B": 2}, '
    '"relevance": {"A": 1, "B": 1}, "usefulness": {"A": 2, "B": 1}}',
    "Post text: {text}\nLists of keyphrases:\n{outputs}\nImage: {image}",
)
PAIR = Template(
    "You compare two systems that predict keyphrases (hashtags) for social-media posts. You are given the text of a "
    "post, its image, and a list of keyphrases from each of them. Which list is better, in "
    + ", ".join(CRITERIA)
    + '? Answer with one JSON object alone: {"better": "A"}, {"better": "B"}, or {"better": "tie"}',
    RANK.user,
)
FIELDS = ("text", "outputs", "keyphrases", "image")
"""Fields of a judge's template."""


class Unreadable(ValueError):
    """Raised for an answer without readable ranks."""


def balanced_orders(systems: int) -> list[list[int]]:
    """Orders in which each system has each position equally often, and precedes each other one equally often.

    A Latin square after Williams (1949): `systems` rows, or twice as many where that number is odd.
    """
    first = [0, *(x for k in range(1, systems // 2 + 1) for x in (k, systems - k))][:systems]
    square = [[(each + row) % systems for each in first] for row in range(systems)]
    return square + [row[::-1] for row in square] if systems % 2 and systems > 1 else square


def format_keyphrases(keyphrases: Sequence[str]) -> str:
    """One system's keyphrases as the judge sees them, without repeats."""
    return "; ".join(_each_once(keyphrases)) or "(none)"


def _each_once(keyphrases: Sequence[str]) -> dict[str, None]:
    return dict.fromkeys(filter(None, (each.strip() for each in keyphrases)))


@dataclass(frozen=True)
class Study:
    """The systems to judge, the endpoint that judges, and the orders and pairs."""

    records: Numbered[Record]
    systems: Mapping[str, Sequence[Sequence[str]]]
    """Each system's keyphrases, by post."""
    endpoint: Endpoint
    template: Template = RANK
    orders: int = 2
    """Orders in which each post is judged."""
    pairs: int = 0
    """Most pairs of systems to compare alone, in both orders, each on another post."""
    image_edge: int = IMAGE_EDGE

    @property
    def rankings(self) -> int:
        """Number of questions for ranks; those on pairs come after them."""
        return len(self.records) * self.orders

    @functools.cached_property
    def compared(self) -> list[tuple[int, tuple[int, int]]]:
        """The post and the two systems of each pair, sampled in turn from the posts on which their lists differ; a
        larger `pairs` begins with the same ones. Fewer than `pairs` where there are no more such posts.
        """
        posts = random.Random(0).sample(range(len(self.records)), len(self.records))
        sets = [[frozenset(_each_once(each)) for each in lists] for lists in self.systems.values()]
        couples = [(a, b) for a in range(len(sets)) for b in range(a)]
        differing = {(a, b): iter([post for post in posts if sets[a][post] != sets[b][post]]) for a, b in couples}
        found: dict[int, tuple[int, int]] = {}
        for couple in itertools.cycle(couples):
            if len(found) >= self.pairs or not differing:
                break
            if couple in differing:
                post = next((post for post in differing[couple] if post not in found), None)
                if post is None:
                    del differing[couple]
                else:
                    found[post] = couple
        return list(found.items())

    @property
    def questions(self) -> int:
        """Number of all questions."""
        return self.rankings + 2 * len(self.compared)

    def order(self, number: int) -> tuple[int, list[int]]:
        """A question's post, and the systems in the order of the lists it shows, from A on."""
        if number < self.rankings:
            rows = balanced_orders(len(self.systems))
            return number // self.orders, rows[number % len(rows)]
        pair, turned = divmod(number - self.rankings, 2)
        post, couple = self.compared[pair]
        return post, list(couple[::-1] if turned else couple)

    def question_of(self) -> QuestionOf:
        """Returns the function that builds a question, by number."""
        systems = list(self.systems.values())

        def question(number: int) -> Question:
            post, order = self.order(number)
            record = self.records[post]
            outputs = "\n".join(
                f"{label}: {format_keyphrases(systems[n][post])}" for label, n in zip(LABELS, order, strict=False)
            )
            values = {"text": record.text, "outputs": outputs, "keyphrases": "; ".join(record.keyphrases)}
            template = self.template if number < self.rankings else PAIR
            return ask_about(record, template, values, self.endpoint, self.image_edge)

        return question


def read_ranks(answer: str, systems: int) -> np.ndarray:
    """Reads an answer's ranks as written: [C, N], in the order of the lists.

    Raises:
        Unreadable: a rank is missing or invalid.
    """
    found = _object(answer)
    labels = LABELS[:systems]
    ranks_CN = np.zeros((len(CRITERIA), systems))
    for row, criterion in enumerate(CRITERIA):
        ranks = found.get(criterion)
        if not isinstance(ranks, dict) or sorted(ranks) != sorted(labels):
            raise Unreadable(f"no {criterion} for each of {', '.join(labels)}")
        for column, label in enumerate(labels):
            rank = ranks[label]
            if isinstance(rank, bool) or not isinstance(rank, int | float) or not 1 <= rank <= systems:
                raise Unreadable(f"the {criterion} of {label} is {shown(rank)}, not a rank from 1 to {systems}")
            ranks_CN[row, column] = rank
    return ranks_CN


def read_better(answer: str) -> int | None:
    """Reads which of two lists an answer prefers: 0, 1, or None for a tie.

    Raises:
        Unreadable: it does not say.
    """
    better = _object(answer).get("better")
    if better not in ("A", "B", "tie"):
        raise Unreadable(f"the better one is {shown(better)}, neither A, B nor tie")
    return {"A": 0, "B": 1}.get(better)


def average_ties(ranks_N: np.ndarray) -> np.ndarray:
    """Ranks 1 to N over the last axis; ties share the mean of their positions."""
    from scipy.stats import rankdata  # takes half a second, which no list of flags needs

    return rankdata(ranks_N, method="average", axis=-1)


class Pair(NamedTuple):
    """A comparison of two systems on one post."""

    id: str
    systems: tuple[str, str]
    """The systems in the first order."""
    better: tuple[str | None, str | None] | None
    """The preferred system in each of the two orders, None for a tie; None without two readable answers."""


@dataclass
class Rankings:
    """The judge's answers. NaN marks a missing or unreadable one."""

    systems: list[str]
    ids: list[str]
    """Ids of the posts."""
    written_POCN: np.ndarray
    """Ranks as they were written, by system."""
    pairs: list[Pair]
    failures: list[dict[str, Any]]
    """Missing answers and those without ranks: `id`, `reason`, `answer`."""

    @property
    def complete_pairs(self) -> list[Pair]:
        """Pairs with a readable answer in both orders."""
        return [pair for pair in self.pairs if pair.better]

    def wins(self) -> list[dict[str, Any]]:
        """For each couple of systems, over its complete pairs: `wins` of each in both orders, `ties` in both, and
        `turned`, where the order changed the answer.
        """
        return [
            {
                "systems": list(couple),
                "pairs": len(answers),
                "wins": {name: answers.count((name, name)) for name in couple},
                "ties": answers.count((None, None)),
                "turned": sum(first != second for first, second in answers),
            }
            for couple in sorted({pair.systems for pair in self.complete_pairs})
            if (answers := [pair.better for pair in self.complete_pairs if pair.systems == couple])
        ]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each readable answer: the post's `id`, the number of the order, and ranks as they were written."""
        return [
            {
                "id": post,
                "order": order,
                "ranks": {
                    name: dict(zip(CRITERIA, ranks_C.tolist(), strict=True))
                    for name, ranks_C in zip(self.systems, ranks_CN.T, strict=True)
                },
            }
            for post, written_OCN in zip(self.ids, self.written_POCN, strict=True)
            for order, ranks_CN in enumerate(written_OCN)
            if not np.isnan(ranks_CN).any()
        ]


def read_rankings(file: Path, systems: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads a file of `Rankings.rows`: ranks [C, N] of each post, ties averaged, as a mean over orders. Empty without a
    file.

    Raises:
        InputError: it lacks ranks of these systems.
    """
    if not file.exists():
        return {}
    found: dict[str, list[np.ndarray]] = {}
    for row in read_rows(file, "judge the same predictions again"):
        ranks = {name: row.object("ranks").object(name) for name in systems}
        ranks_CN = [[ranks[name].number(criterion) for name in systems] for criterion in CRITERIA]
        found.setdefault(row.text("id"), []).append(average_ties(np.array(ranks_CN, float)))
    return {post: np.mean(each, axis=0) for post, each in found.items()}


def ranking_rejector(study: Study) -> Rejector:
    """Returns the function that gives (kind, reason) of a rejected answer of the study."""

    def reject(number: int, row: Mapping[str, Any]) -> tuple[str, str] | None:
        status, reason = row_verdict(row)
        if status != "answered":
            return status, reason
        try:
            if number < study.rankings:
                read_ranks(content_of(row), len(study.systems))
            else:
                read_better(content_of(row))
        except Unreadable as error:
            return "unreadable", str(error)
        return None

    return reject


def collect_rankings(study: Study, run: AskState, store: Store) -> Rankings:
    """Reads the answers in the store."""
    names, systems = list(study.systems), len(study.systems)
    written_POCN = np.full((len(study.records), study.orders, len(CRITERIA), systems), np.nan)
    better: dict[int, str | None] = {}
    failures = []
    for number in range(study.questions):
        post, order = study.order(number)
        row = store.get(run.keys.get(number))
        status, reason = row_verdict(row) if row else ("", "")
        try:
            if status != "answered":
                none = run.unaskable.get(number) or run.unavailable.get(number) or run.stopped
                raise Unreadable(reason if row else none)
            if number < study.rankings:
                written_POCN[post, number % study.orders][:, order] = read_ranks(content_of(row), systems)
            else:
                place = read_better(content_of(row))
                better[number - study.rankings] = None if place is None else names[order[place]]
        except Unreadable as error:
            answer = content_of(row) if status == "answered" else None
            failures.append({"id": study.records[post].id, "reason": str(error), "answer": answer})
    ids = [study.records[n].id for n in range(len(study.records))]
    pairs = []
    for n, (post, (a, b)) in enumerate(study.compared):
        complete = 2 * n in better and 2 * n + 1 in better
        pairs.append(Pair(ids[post], (names[a], names[b]), (better[2 * n], better[2 * n + 1]) if complete else None))
    return Rankings(names, ids, written_POCN, pairs, failures)


def _object(answer: str) -> dict[str, Any]:
    """The JSON object in an answer, whatever surrounds it."""
    answer = after_thought(answer)
    start, end = answer.find("{"), answer.rfind("}")
    try:
        return read_body(answer[start : end + 1].encode())
    except NotJson:
        raise Unreadable("the answer holds no JSON object") from None
