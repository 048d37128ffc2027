"""How far the questions are: for the code, and as a bar for people."""

from dataclasses import dataclass, field

from tqdm import tqdm

from mmkp_jax.teacher.cost import Prices, money


@dataclass
class Run:
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
    trouble: str = ""
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
        if self.unpriced:
            told.append(f"at most {money(self.unpriced)} more for answers and broken calls whose cost is not known")
        if self.stopped:
            told.append(f"stopped: {self.stopped}; the same command goes on with a higher one")
        elif self.unavailable:
            what = f"the endpoint gave no answer to {len(self.unavailable):,} of {self.total:,} questions"
            told.append(f"{what} ({next(iter(self.unavailable.values()))}); the same command asks again")
        return told


class Progress:
    """A bar with rate, spend and time left, for `ask_all`; it comes with the first answer."""

    def __init__(self, total: int, prices: Prices, unit: str = "post"):
        self._total, self._unit, self._priced = total, unit, prices.input is not None
        self._bar: tqdm | None = None

    def __call__(self, run: Run) -> None:
        bar = self._bar = self._bar or tqdm(total=self._total, initial=run.found, unit=self._unit, dynamic_ncols=True)
        found = run.found - bar.initial  # they took no time, and are left out of the rate
        bar.initial, bar.n, bar.last_print_n = run.found, bar.n + found, bar.last_print_n + found
        told = {"spent": money(run.spent if self._priced else None)}
        if run.trouble:
            told["last trouble"] = run.trouble[:40]
        bar.set_postfix(told, refresh=False)
        bar.update(run.done - bar.n)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar:
            self._bar.close()
