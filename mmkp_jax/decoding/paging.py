"""The assignment of cache pages to slots: on the host, in plain numpy.

B slots, J pages of a slot's longest text, C pages in all. A mesh divides slots and pages alike: a slot's pages are in
its shard, and both are numbered within the shard.
"""

from typing import NamedTuple

import numpy as np

NOWHERE = np.int32(2**30)
"""An index beyond every page and position: writes there are dropped, and no query sees it."""


SHORT_TEXT = 512
"""Longest text in positions for which pages are small: half of a text's last page is empty on average."""


class Pages(NamedTuple):
    """The pages of every slot, and the slot of every page."""

    page_BJ: np.ndarray
    """int32: a slot's pages in the order of its text; NOWHERE for those not assigned yet."""
    slot_C: np.ndarray
    """int32: the slot of each page; any for a free one."""
    first_C: np.ndarray
    """int32: the position in the text at which the page begins; NOWHERE for a free one."""


class PageTable:
    """Assigns pages to slots as their texts grow, and frees them; has none at first.

    Args:
        slots: number of slots; the shards divide them.
        longest: positions of the longest possible text.
    """

    def __init__(self, shards: int, slots: int, longest: int):
        self.width = 64 if longest <= SHORT_TEXT else 128
        """Places of a page."""
        self.count = 0
        """Pages of a shard."""
        self._slots = slots // shards
        self.most = self._slots * -(-longest // self.width)
        """Pages of a shard that are enough for texts of any allowed length."""
        self._step = -(-self.most // 8)  # decoding is compiled for each count: at most eight times
        nothing = np.zeros(0, np.int32)
        self.pages = Pages(np.full((slots, self.most // self._slots), NOWHERE), nothing, nothing)
        self._has = [0] * slots
        self._free: list[list[int]] = [[] for _ in range(shards)]

    @property
    def in_all(self) -> int:
        """Pages of all shards."""
        return self.count * len(self._free)

    @property
    def before_last(self) -> int:
        """The largest count below the most."""
        return (self.most - 1) // self._step * self._step

    def numbers_of(self, slot_M: np.ndarray) -> np.ndarray:
        """The slots' pages, numbered over all shards as for `cache.insert`, [M, J]; a slot out of range has none."""
        there_M = slot_M < len(self._has)
        page_MJ = self.pages.page_BJ[np.where(there_M, slot_M, 0)]
        first_M1 = (slot_M // self._slots * self.count)[:, None]
        return np.where(there_M[:, None] & (page_MJ != NOWHERE), page_MJ + first_M1, NOWHERE).astype(np.int32)

    def needed(self, positions: dict[int, int]) -> int:
        """Pages that a shard must have: those taken, and those that these slots lack for their numbers of positions."""
        taken = [self.count - len(free) for free in self._free]
        for slot, wanted in positions.items():
            taken[slot // self._slots] += max(0, -(-wanted // self.width) - self._has[slot])
        return max(taken)

    def take(self, slot: int, positions: int) -> None:
        """Assigns a slot the pages for `positions` positions; enough must be free."""
        shard = slot // self._slots
        while self._has[slot] * self.width < positions:
            self._put(slot, self._has[slot], self._free[shard].pop())
            self._has[slot] += 1

    def give_back(self, slot: int) -> None:
        """Frees all pages of a slot."""
        shard = slot // self._slots
        for page in self.pages.page_BJ[slot, : self._has[slot]].tolist():
            self.pages.first_C[shard * self.count + page] = NOWHERE
            self._free[shard].append(page)
        self.pages.page_BJ[slot], self._has[slot] = NOWHERE, 0

    def grow(self, needed: int) -> None:
        """Grows to at least `needed` pages a shard, in eighths of the most; existing pages keep their numbers."""
        count = min(self.most, -(-needed // self._step) * self._step)
        shards, more = len(self._free), count - self.count
        slot_C, first_C = (
            np.pad(array.reshape(shards, -1), ((0, 0), (0, more)), constant_values=value).reshape(-1)
            for array, value in ((self.pages.slot_C, 0), (self.pages.first_C, NOWHERE))
        )
        self.pages = self.pages._replace(slot_C=slot_C, first_C=first_C)
        for free in self._free:
            free.extend(range(self.count, count))
        self.count = count

    def _put(self, slot: int, number: int, page: int) -> None:
        at = slot // self._slots * self.count + page
        self.pages.page_BJ[slot, number] = page
        self.pages.slot_C[at], self.pages.first_C[at] = slot % self._slots, number * self.width
