"""How far the questions are: for the code, and as a bar for people."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.cost import Prices, money

Rejector = Callable[[int, Mapping[str, Any]], tuple[str, str] | None]
"""Why a question's row of the store is of no use: a kind, and a sentence; None where it is of use."""


@dataclass
class AskState:
    """How far the questions are."""

    total: int
    keys: dict[int, str] = field(default_factory=dict)
    """Of each question that could be made."""
    unaskable: dict[int, str] = field(default_factory=dict)
    """Why there is no request, by the post's number."""
    unavailable: dict[int, str] = field(default_factory=dict)
    """Why there is no answer yet; the same command asks again."""
    found: int = 0
    """Answers that were in the store."""
    asked: int = 0
    """Answers that came now."""
    lost: int = 0
    """Calls that ended without a readable answer; what the endpoint charged for them is not known."""
    spent: float = 0.0
    """Money for all answers in the store, as far as it is known."""
    unpriced: float = 0.0
    """Money, at most, for what told no usage: answers, and calls that broke off."""
    killed: int = 0
    """Calls that were out when an earlier command was killed."""
    implausible: int = 0
    """Answers with a usage that cannot be true."""
    last_error: str = ""
    """What the endpoint last complained of."""
    stopped: str = ""
    """Why not all questions were asked, if they were not."""

    @property
    def done(self) -> int:
        """Questions that need no more asking in this run."""
        return self.found + self.asked + len(self.unaskable) + len(self.unavailable)

    def lines(self, prices: Prices) -> list[str]:
        """For people, at the end."""
        spent = money(self.spent if prices.input is not None else None)
        told = [f"asked now: {self.asked:,}; spent in all: {spent}"]
        if self.lost:
            told.append(f"calls that broke off, which the endpoint may have charged too: {self.lost:,}")
        if self.killed:
            told.append(f"calls that were out when a command was killed, counted at their most: {self.killed:,}")
        if self.implausible:
            told.append(f"answers whose usage cannot be true, counted at their most: {self.implausible:,}")
        if self.unpriced:
            told.append(f"at most {money(self.unpriced)} more for answers and broken calls whose cost is not known")
        if self.stopped:
            told.append(f"stopped: {self.stopped}; the same command goes on with a higher one")
        elif self.unavailable:
            what = f"the endpoint gave no answer to {len(self.unavailable):,} of {self.total:,} questions"
            told.append(f"{what} ({next(iter(self.unavailable.values()))}); the same command asks again")
        return told


class Patience:
    """Ends a run whose first answers are all of no use, before more of them are paid for.

    Args:
        most: answers that may be of no use before the first one that is of use; 0 for any number.
        reject: says why one is of no use; called in threads.
    """

    def __init__(self, most: int, reject: Rejector):
        self._most, self._reject = most, reject
        self._reasons: list[tuple[str, str]] = []
        self.over = not most

    def error(self, number: int, row: Mapping[str, Any]) -> InputError | None:
        """The end of the run, where this answer is one too many."""
        reason = self._reject(number, row)
        if reason is None or self.over:
            self.over = True
            return None
        self._reasons.append(reason)
        if len(self._reasons) < self._most:
            return None
        self.over = True
        what = f"the first {self._most:,} answers are all of no use, {commonest(self._reasons)}"
        hint = "change the prompt or the flags; --give_up_after=0 asks for all of them whatever they are"
        return InputError(what, "the endpoint", hint)


def commonest(reasons: list[tuple[str, str]]) -> str:
    """The most frequent kind of reason in a list of at least one, with an example."""
    (kind, count), *_ = Counter(kind for kind, _ in reasons).most_common(1)
    example = next(reason for each, reason in reasons if each == kind)
    return f"most often for {kind} ({count:,}: {example})"


class ProgressBar:
    """A bar with rate, spend and time left, for `ask_all`; it comes with the first answer."""

    def __init__(self, total: int, prices: Prices, unit: str = "post"):
        self._total, self._unit, self._priced = total, unit, prices.input is not None
        self._bar: tqdm | None = None

    def __call__(self, run: AskState) -> None:
        bar = self._bar = self._bar or tqdm(total=self._total, initial=run.found, unit=self._unit, dynamic_ncols=True)
        found = run.found - bar.initial  # they took no time, and are left out of the rate
        bar.initial, bar.n, bar.last_print_n = run.found, bar.n + found, bar.last_print_n + found
        told = {"spent": money(run.spent if self._priced else None)}
        if run.last_error:
            told["last error"] = run.last_error[:40]
        bar.set_postfix(told, refresh=False)
        bar.update(run.done - bar.n)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar:
            self._bar.close()
