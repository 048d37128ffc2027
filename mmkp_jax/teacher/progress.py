"""State of a run of questions, as data and as a progress bar."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.cost import Prices, money

Rejector = Callable[[int, Mapping[str, Any]], tuple[str, str] | None]
"""Returns why a question's row of the store is rejected, as (kind, reason); None where it is usable."""


@dataclass
class AskState:
    """State of a run of questions, and its result once the run has ended."""

    total: int
    keys: dict[int, str] = field(default_factory=dict)
    """Key of each question that could be built, by number."""
    unaskable: dict[int, str] = field(default_factory=dict)
    """Why no request could be built, by the post's number."""
    unavailable: dict[int, str] = field(default_factory=dict)
    """Why there is no answer yet, by number; the same command asks again."""
    found: int = 0
    """Answers that were in the store already."""
    asked: int = 0
    """Answers of this run."""
    lost: int = 0
    """Calls that ended without a readable answer; their cost is unknown."""
    spent: float = 0.0
    """Known cost of all answers in the store."""
    unpriced: float = 0.0
    """Highest cost of answers and failed calls that reported no usage."""
    killed: int = 0
    """Calls in flight when an earlier command was killed."""
    implausible: int = 0
    """Answers with an implausible usage."""
    last_error: str = ""
    """The endpoint's latest error."""
    stopped: str = ""
    """Why not all questions were asked, if they were not."""

    @property
    def done(self) -> int:
        """Questions that need no more asking in this run."""
        return self.found + self.asked + len(self.unaskable) + len(self.unavailable)

    def lines(self, prices: Prices) -> list[str]:
        """Lines that the command prints at the end."""
        spent = money(self.spent if prices.input is not None else None)
        lines = [f"asked now: {self.asked:,}; spent in all: {spent}"]
        if self.lost:
            lines.append(f"failed calls that the endpoint may have charged: {self.lost:,}")
        if self.killed:
            lines.append(f"calls in flight when a command was killed, counted at their highest cost: {self.killed:,}")
        if self.implausible:
            lines.append(f"answers with an implausible usage, counted at their highest cost: {self.implausible:,}")
        if self.unpriced:
            lines.append(f"at most {money(self.unpriced)} more for answers and failed calls of unknown cost")
        if self.stopped:
            lines.append(f"stopped: {self.stopped}; the same command continues with a higher one")
        elif self.unavailable:
            what = f"the endpoint gave no answer to {len(self.unavailable):,} of {self.total:,} questions"
            lines.append(f"{what} ({next(iter(self.unavailable.values()))}); the same command asks again")
        return lines


class Patience:
    """Ends a run whose first answers are all rejected, before more of them are paid for.

    Args:
        most: rejected answers in a row from the start after which the run ends; 0 for no limit.
        reject: returns why an answer is rejected; called in threads.
    """

    def __init__(self, most: int, reject: Rejector):
        self._most, self._reject = most, reject
        self._reasons: list[tuple[str, str]] = []
        self.over = not most

    def error(self, number: int, row: Mapping[str, Any]) -> InputError | None:
        """Returns the error that ends the run, if this rejected answer is one too many."""
        reason = self._reject(number, row)
        if reason is None or self.over:
            self.over = True
            return None
        self._reasons.append(reason)
        if len(self._reasons) < self._most:
            return None
        self.over = True
        what = f"the first {self._most:,} answers are all rejected, {commonest(self._reasons)}"
        hint = "change the prompt or the flags; --give_up_after=0 asks for all of them anyway"
        return InputError(what, "the endpoint", hint)


def commonest(reasons: list[tuple[str, str]]) -> str:
    """The most frequent kind of reason in a non-empty list, with an example."""
    (kind, count), *_ = Counter(kind for kind, _ in reasons).most_common(1)
    example = next(reason for each, reason in reasons if each == kind)
    return f"most often for {kind} ({count:,}: {example})"


class ProgressBar:
    """Progress bar with rate, cost and time left, for `ask_all`; shown from the first answer on."""

    def __init__(self, total: int, prices: Prices, unit: str = "post"):
        self._total, self._unit, self._priced = total, unit, prices.input is not None
        self._bar: tqdm | None = None

    def __call__(self, run: AskState) -> None:
        bar = self._bar = self._bar or tqdm(total=self._total, initial=run.found, unit=self._unit, dynamic_ncols=True)
        found = run.found - bar.initial  # stored answers took no time, and do not count in the rate
        bar.initial, bar.n, bar.last_print_n = run.found, bar.n + found, bar.last_print_n + found
        postfix = {"spent": money(run.spent if self._priced else None)}
        if run.last_error:
            postfix["last error"] = run.last_error[:40]
        bar.set_postfix(postfix, refresh=False)
        bar.update(run.done - bar.n)

    def close(self) -> None:
        """Closes the bar, and leaves it on the screen."""
        if self._bar:
            self._bar.close()
