"""Completions of prompts that come at any time: a generator's slots stay in use, and each is refilled as it is free.

Programs are compiled for few sizes of prompts, and decoding for one.

The rows of the last prefill are kept until the next one: a prompt whose trunk is among them is not prefilled again.
"""

import collections
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mmkp_jax.data.forest import RowSize, Tree
from mmkp_jax.data.processor import Processor
from mmkp_jax.decoding.cache import Cache
from mmkp_jax.decoding.generate import Generator, Session
from mmkp_jax.decoding.prompts import SHORT, Prompt, pack_trunks, padded_size
from mmkp_jax.decoding.slots import Completion, Pending
from mmkp_jax.models.definition import Params

Compiling = Callable[[RowSize], None]
"""Called before the first prompts of a size are prefilled."""


class TooLong(ValueError):
    """A prompt with more tokens than the stream has room for; the message says how many."""


class Update(NamedTuple):
    """A completion that has more tokens than before."""

    completion: Completion
    """Its `prompt` is the number that `Stream.add` gave."""
    ended: bool


class _Waiting(NamedTuple):
    number: int
    tree: Tree
    """Its prompt and the pixels of its images."""
    size: RowSize
    """The size of the rows that it is prefilled in."""
    trunk: bytes | int
    """The same for prompts that share a trunk: `Prompt.trunk`, or the number."""


class Stream:
    """A queue of prompts in front of a generator's slots; for one thread.

    Args:
        largest: the largest image that the slots have room for, and the most tokens of a trunk.
        compiling: called before programs for a size of prompts are compiled.
    """

    def __init__(
        self,
        generator: Generator,
        params: Params,
        processor: Processor,
        largest: RowSize,
        compiling: Compiling = lambda _: None,
    ):
        self._generator, self._params, self._processor, self._compiling = generator, params, processor, compiling
        self.largest = padded_size([largest])
        self._sizes: set[tuple[int, ...]] = set()
        self._next = 0
        self.restart()

    def restart(self) -> None:
        """Forgets all prompts, and begins with empty slots."""
        self._prompts: dict[int, Prompt] = {}
        self._trunks: Cache | None = None
        self._row_of: dict[bytes | int, int] = {}  # the rows of `_trunks`, as `_Waiting.trunk` names them
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._session = None  # frees its cache before there is another
        self._session = Session(self._generator, self._params, self._prompts, [self.largest], most_pages=True)

    @property
    def is_idle(self) -> bool:
        """Whether no prompt waits or is being completed."""
        return not self._prompts

    def check(self, prompt: Prompt) -> None:
        """Refuses a prompt that is too long.

        Raises:
            TooLong: it has more tokens than the stream has room for.
        """
        if prompt.size.tokens > self.largest.tokens:
            found, most = prompt.size.tokens + 1, self.largest.tokens + 1
            raise TooLong(f"the prompt has {found:,} tokens, more than the {most:,} that there is room for")

    def add(self, prompt: Prompt, tree: Tree) -> int:
        """Puts a prompt at the end of the queue, and returns its number.

        Raises:
            TooLong: as `check`.
        """
        self.check(prompt)
        number, self._next = self._next, self._next + 1
        self._prompts[number] = prompt
        self._queue.append(_Waiting(number, tree, self._rows_of(prompt.size), prompt.trunk or number))
        return number

    def drop(self, number: int) -> None:
        """Ends a prompt's completion, of which there are no more updates; nothing happens if it has ended."""
        if self._prompts.pop(number, None):
            self._queue = collections.deque(each for each in self._queue if each.number != number)
            self._session.drop(number)

    def advance(self) -> Iterator[Update]:
        """Fills free slots from the queue, decodes up to the next sync, and yields what came of every prompt."""
        while self._queue and self._session.table.free:
            if self._queue[0].trunk not in self._row_of:
                self._prefill()
            self._begin()
        if self._session.table.taken:
            ended = list(self._session.decode())
            for completion in ended:
                self._prompts.pop(completion.prompt)
            yield from [Update(completion, True) for completion in ended]
        yield from [Update(completion, False) for completion in self._session.table.taken.values()]

    def _prefill(self) -> None:
        """Prefills the first trunk of the queue, and the next of the same size that there are free slots for."""
        rows = self._generator.rows()
        size = self._queue[0].size
        trees: dict[bytes | int, Tree] = {}
        for each in self._queue:
            if each.size == size:
                trees.setdefault(each.trunk, each.tree)
        taken = list(trees)[: min(rows, len(self._session.table.free))]
        if (key := tuple(size.slots().values())) not in self._sizes:
            self._sizes.add(key)
            self._compiling(size)
        padded = [trees[trunk] for trunk in taken] + [None] * (rows - len(taken))
        forest = self._generator.place(pack_trunks(padded, size, self._processor))
        self._trunks, self._row_of = None, {}  # frees them before there are others
        self._trunks, _ = self._session.prefill(forest)
        self._row_of = {trunk: row for row, trunk in enumerate(taken)}

    def _begin(self) -> None:
        """Begins the completions of waiting prompts whose trunks are kept, as far as there are free slots."""
        there = [each for each in self._queue if each.trunk in self._row_of][: len(self._session.table.free)]
        numbers = {each.number for each in there}
        self._queue = collections.deque(each for each in self._queue if each.number not in numbers)
        waiting = collections.deque(Pending(self._row_of[each.trunk], each.number, 0) for each in there)
        while waiting:
            self._session.insert(self._trunks, waiting, at_most=self._generator.rows())

    def _rows_of(self, size: RowSize) -> RowSize:
        """One of few sizes: tokens of a power of two or the most, and slots of no image, the largest, or its own."""
        tokens = min(max(SHORT, 1 << (size.tokens - 1).bit_length()), self.largest.tokens)
        images = dict(size.images)
        if any(images.values()):
            own = padded_size([size]).images
            images = {kind: max(own[kind], self.largest.images[kind]) for kind in images}
        return RowSize(tokens=tokens, labels=0, examples=1, images=images)
