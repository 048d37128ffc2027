"""Chains of thought from a teacher's answers: the gates that each must pass, and the reason for every rejection."""

import dataclasses
import re
from collections.abc import Collection, Sequence
from typing import Literal

from mmkp_jax.data.posts import Record
from mmkp_jax.evaluation.outputs import ANSWER, TAG, split_keyphrases
from mmkp_jax.evaluation.stemming import stem_words

Amount = Literal["any", "all"]
Match = Literal["exact", "all", "any"]

_THOUGHT = re.compile(r"\A\s*(<think>)?((?:(?!</?think>).)*)</think>(.*)\Z", re.DOTALL)
_WORD = re.compile(r"\w+")


class Rejected(Exception):
    """Raised for an answer that gives no chain; `gate` names the gate that rejected it."""

    def __init__(self, gate: str, reason: str):
        super().__init__(reason)
        self.gate = gate


def after_thought(answer: str) -> str:
    """The text after the first `</think>`, whether or not it was opened.

    An answer without thoughts, or with nothing after them, is returned unchanged.
    """
    thought = _THOUGHT.match(answer)
    return thought[3].strip() if thought and thought[3].strip() else answer


@dataclasses.dataclass(frozen=True)
class Gates:
    """Conditions that a chain must meet."""

    min_words: int = 1
    max_words: int | None = None
    mentions: Amount | None = None
    """Whether the chain must name any, or all, of the post's keyphrases; words are compared by their stems."""
    match: Match | None = None
    """For a teacher that did not see the keyphrases: its answer must equal them, or hold all or any of them."""

    def chain(self, answer: str, record: Record) -> str:
        """Returns the chain of thought in an answer.

        Raises:
            Rejected: it does not pass the gates.
        """
        if self.match:
            answer = self._reasoning(answer, record)
        answer = after_thought(answer)
        if (thought := _THOUGHT.match(answer)) and thought[1]:  # all of it is the chain, between the tags of one
            answer = thought[2] + thought[3]
        chain = answer.strip()
        if TAG.search(chain):
            raise Rejected("tags", "the chain holds a tag of its own, such as <answer>")
        words = len(chain.split())
        if words < self.min_words:
            raise Rejected("length", f"the chain has {words:,} words, fewer than {self.min_words:,}")
        if self.max_words is not None and words > self.max_words:
            raise Rejected("length", f"the chain has {words:,} words, more than {self.max_words:,}")
        if self.mentions:
            said = f" {_stems(chain)} "
            missing = [each for each in record.keyphrases if f" {_stems(each)} " not in said]
            if missing and (self.mentions == "all" or len(missing) == len(record.keyphrases)):
                raise Rejected("mentions", f"the chain does not mention {missing[0]!r}")
        return chain

    def _reasoning(self, answer: str, record: Record) -> str:
        """The text before `<answer>`, if the answer matches the keyphrases."""
        found = [*ANSWER.finditer(answer)]
        if not found:
            raise Rejected("answer", "there is no complete <answer>…</answer>")
        given = {_stems(each) for each in split_keyphrases(found[-1][1])}
        gold = {_stems(each) for each in record.keyphrases}
        right = {"exact": given == gold, "all": gold <= given, "any": bool(gold & given)}
        if not right[self.match]:
            raise Rejected("answer", f"its answer is {'; '.join(split_keyphrases(found[-1][1])) or 'empty'}")
        return answer[: found[-1].start()]


def read_keyphrases(answer: str) -> list[str]:
    """Returns the keyphrases in an answer to `templates.CLEAN`, without repeats.

    Raises:
        Rejected: it has none.
    """
    answer = after_thought(answer)
    if TAG.search(answer):
        raise Rejected("tags", "the answer holds a tag")
    lines = [line for line in answer.splitlines() if line.strip()]
    if len(lines) > 1:
        raise Rejected("form", "the answer has more than one line")
    found = list(dict.fromkeys(each.lstrip("#").strip() for each in split_keyphrases(answer)))
    found = [each for each in found if each]
    if not found or [each.rstrip(".!").lower() for each in found] == ["none"]:
        raise Rejected("none", "no hashtag says anything about the post")
    return found


def histogram(lengths: Collection[int], bins: int = 10) -> list[tuple[int, int, int]]:
    """Histogram of lengths in words: (from, to, count) of at most `bins` bins, with round bounds."""
    if not lengths:
        return []
    least, most = min(lengths), max(lengths)
    step = next(s for e in range(9) for s in (10**e, 2 * 10**e, 5 * 10**e) if (most // s - least // s) < bins)
    counts: dict[int, int] = {}
    for each in lengths:
        counts[each // step] = counts.get(each // step, 0) + 1
    rows = range(least // step, most // step + 1)
    return [(row * step, row * step + step - 1, counts.get(row, 0)) for row in rows]


def _stems(text: str | Sequence[str]) -> str:
    return stem_words(_WORD.findall(text.lower()))
