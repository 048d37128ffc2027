"""Answers to prompts, decoded in slots that are filled again as soon as their answer has ended.

B slots, R rows of a prefill, M moves, J pages of a slot, K tokens between two looks, V vocabulary, D model width,
I pairs of a head.

Every process of a run holds the same prompts and takes the same decisions from the same tokens, which leave the
devices beside the prompts' states; each loads the pictures of its own rows only, and each comes to all answers.
"""

import collections
import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmkp_jax.data.forest import Forest, RowSize, Tree, empty_rows
from mmkp_jax.decoding.cache import Cache, Weights, empty_cache, extend, grown, insert, prefill, weights_of
from mmkp_jax.decoding.paging import Pages, PageTable
from mmkp_jax.decoding.prompts import Batch, Prompt, pack_trunks, padded_size, plan_batches
from mmkp_jax.decoding.sampling import GREEDY, Sampling, name_number, sample_tokens
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.models.layers import Rotation
from mmkp_jax.ops.layout import ROW_AXES, over_rows

MOST_ROWS = 8
"""Prompts that a device prefills at a time, at most."""

LOADERS = min(8, os.cpu_count() or 1)
"""Threads that decode pictures; each is a batch ahead."""

Load = Callable[[int], Tree | None]
"""The prompt of a number with its pictures' patches; None where they cannot be had. Called in threads."""


class Completion(NamedTuple):
    """What the model wrote."""

    prompt: int
    """Its number."""
    sample: int
    """From 0."""
    tokens: list[int] | None
    """Without the stop token; None for a prompt that could not be loaded."""
    state_D: np.ndarray | None = None
    """float32: the hidden state of the prompt's last token after the last norm; None for such a prompt."""


class SlotState(NamedTuple):
    """What decoding goes on from, for each slot; on the host, as the tokens are all it changes by."""

    token_B: np.ndarray
    """int32: the last token of its text so far."""
    cache_position_B: np.ndarray
    """int32: that token's number in the text."""
    position_B: np.ndarray
    """int32: its position, the same on all axes."""
    name_B: np.ndarray
    """uint32."""
    sample_B: np.ndarray
    """int32."""
    index_B: np.ndarray
    """int32: the number in the answer of the token to come."""


class Generator:
    """Decodes with one model and one setting; keeps its compiled programs from call to call.

    Args:
        mesh: where the parameters lie; slots are divided over its axes data and fsdp.
        slots: answers decoded at a time, at most; rounded up to what the mesh divides.
        answer_tokens: most tokens of an answer.
        stop_tokens: any of them ends an answer, and is not part of it.
        dtype: what the model computes in; logits are float32 at least.
        sync_every: tokens decoded before the host looks which answers have ended.
    """

    def __init__(
        self,
        definition: Definition,
        mesh: Mesh,
        *,
        slots: int,
        answer_tokens: int,
        stop_tokens: Sequence[int],
        dtype: jnp.dtype,
        sampling: Sampling = GREEDY,
        sync_every: int = 8,
    ):
        self._mesh, self._processor = mesh, definition.processor
        self._shards = math.prod(mesh.shape[axis] for axis in ROW_AXES)
        self._slots, self._answer_tokens, self._stop_tokens = slots, answer_tokens, frozenset(stop_tokens)

        def filled(params: Params, trunks: Forest, width: int) -> tuple[Cache, jax.Array]:
            there_R = jax.lax.with_sharding_constraint((trunks.segment_BT > 0).any(axis=1), PartitionSpec())
            return prefill(definition.bind(params), trunks, width, dtype), there_R

        def decode(
            params: Params, weights: Weights, cache: Cache, pages: Pages, slots: SlotState
        ) -> tuple[Cache, jax.Array, jax.Array]:
            model = definition.bind(params)
            pages, slots = jax.tree.map(over_rows, (pages, slots))

            position_BK = slots.position_B[:, None] + jnp.arange(sync_every)
            rotation = model.rotation(jnp.repeat(position_BK[..., None], definition.processor.axes, axis=-1))
            rotations = jax.tree.map(lambda array_BKI: jnp.moveaxis(array_BKI[:, :, None], 1, 0), rotation)

            def one_more(carry: tuple[Cache, SlotState], rotation: Rotation) -> tuple[tuple[Cache, SlotState], tuple]:
                cache, at = carry
                cache, hidden_BD = extend(
                    model, weights, cache, pages, at.token_B, at.cache_position_B, rotation, dtype
                )
                logits_BV = jnp.einsum(
                    "bd,vd->bv",
                    hidden_BD,
                    weights.head_VD,
                    preferred_element_type=jnp.promote_types(dtype, jnp.float32),
                )
                token_B = over_rows(sample_tokens(logits_BV, sampling, at.name_B, at.sample_B, at.index_B))
                following = at._replace(
                    token_B=token_B, cache_position_B=at.cache_position_B + 1, index_B=at.index_B + 1
                )
                return (cache, following), (token_B, hidden_BD)

            (cache, _), (token_KB, hidden_KBD) = jax.lax.scan(one_more, (cache, slots), rotations)
            told = token_KB, hidden_KBD[0].astype(jnp.float32)
            return cache, *jax.lax.with_sharding_constraint(told, PartitionSpec())

        self._sync_every = sync_every
        self._empty = jax.jit(lambda pages, width: empty_cache(definition, pages, width, dtype), static_argnums=(0, 1))
        self._grown = jax.jit(grown, static_argnums=1)
        # parameters that a program does not read stay where they are, too: they count among what it takes
        self._prefill = jax.jit(filled, static_argnums=2, keep_unused=True)
        self._insert = jax.jit(insert, donate_argnums=0)
        self._weights = jax.jit(lambda params: weights_of(definition.bind(params), dtype))
        self._decode = jax.jit(decode, donate_argnums=2, keep_unused=True)

    def __call__(
        self, params: Params, prompts: Sequence[Prompt], load: Load, num_samples: int = 1
    ) -> Iterator[Completion]:
        """`num_samples` answers to each prompt, in the order in which they end.

        Where the answers are few, slots are only as many as they need, rounded up to a power of two.
        """
        slots, rows = self._sizes(min(self._slots, 1 << (len(prompts) * num_samples - 1).bit_length()))
        batches = plan_batches(prompts, rows)
        pages = self._pages(slots, max((batch.size.tokens for batch in batches), default=0))
        table = _Table(prompts, slots, self._answer_tokens, self._stop_tokens)
        cache = self._on_mesh(self._empty, pages.in_all, pages.width)
        weights = self._on_mesh(self._weights, params)
        trunks, waiting = None, collections.deque[_Pending]()  # the rows prefilled last, and who waits for a slot there
        with (
            ThreadPoolExecutor(LOADERS) as pool,
            contextlib.closing(self._forests(pool, batches, rows, load)) as forests,  # before the pool, which waits
        ):
            while True:
                while table.free and (waiting or (loaded := next(forests, None))):
                    if not waiting:
                        (batch, forest), loaded, trunks = loaded, None, None  # what was before need not wait in memory
                        trunks, there_R = self._on_mesh(self._prefill, params, forest, pages.width)
                        there_R, forest = np.asarray(there_R), None
                        pending = [
                            _Pending(row, n, sample)
                            for row, n in enumerate(batch.numbers)
                            for sample in range(num_samples)
                        ]
                        waiting.extend(each for each in pending if there_R[each.row])
                        yield from (
                            Completion(each.prompt, each.sample, None) for each in pending if not there_R[each.row]
                        )
                    row_M, slot_M = table.assign(waiting, at_most=-(-rows // 4))  # few slots are free at a time
                    cache = self._with_room(cache, pages, table.positions(slot_M))
                    cache = self._on_mesh(self._insert, cache, trunks, row_M, pages.numbers_of(slot_M))
                if not table.taken:
                    return
                cache = self._with_room(cache, pages, table.positions(table.taken, ahead=self._sync_every))
                cache, token_KB, state_BD = self._on_mesh(
                    self._decode, params, weights, cache, pages.pages, table.slots
                )
                table.record_states(state_BD)
                for slot, answer in table.advance(np.asarray(token_KB)):
                    pages.give_back(slot)
                    yield answer

    def lower(self, params: Params, size: RowSize) -> dict[str, jax.stages.Lowered]:
        """The programs for prompts of one size, ready to compile: nothing is computed or loaded.

        Decoding is that with the most pages there can be: every slot's text is as long as it may become. Growth of the
        cache is the last, to so many, if it ever grows.

        Args:
            params: their shapes and shardings.
            size: of the longest prompt, which may be rounded up.
        """
        slots, rows = self._sizes(self._slots)
        size = padded_size([size])
        shards = NamedSharding(self._mesh, PartitionSpec(ROW_AXES))
        trunks = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=shards), empty_rows(rows, size, self._processor)
        )
        pages = self._pages(slots, size.tokens)
        fewer = max(pages.count, pages.before_last)
        pages.grow(pages.most)
        with jax.set_mesh(self._mesh):
            cache = _to_come(self._empty.lower(pages.in_all, pages.width))
            weights = _to_come(self._weights.lower(params))
            free = _Table([], slots, self._answer_tokens, frozenset()).slots
            programs = {
                "prefill": self._prefill.lower(params, trunks, pages.width),
                "decode": self._decode.lower(params, weights, cache, pages.pages, free),
            }
            if fewer < pages.most:
                before = _to_come(self._empty.lower(self._shards * fewer, pages.width))
                programs["growth"] = self._grown.lower(before, pages.in_all)
            return programs

    def _sizes(self, wanted: int) -> tuple[int, int]:
        """(slots, rows of a prefill) that the mesh divides."""
        of_shard = -(-wanted // self._shards)
        return self._shards * of_shard, self._shards * min(MOST_ROWS, -(-of_shard // 4))

    def _pages(self, slots: int, trunk_tokens: int) -> PageTable:
        """With room for trunks and their first tokens."""
        pages = PageTable(self._shards, slots, trunk_tokens + self._answer_tokens)
        pages.grow(slots // self._shards * -(-(trunk_tokens + self._sync_every) // pages.width))
        return pages

    def _with_room(self, cache: Cache, pages: PageTable, positions: dict[int, int]) -> Cache:
        """The cache, with more pages where slots lack some for so many positions; the slots take theirs."""
        if (needed := pages.needed(positions)) > pages.count:
            pages.grow(needed)
            cache = self._on_mesh(self._grown, cache, pages.in_all)
        for slot, wanted in positions.items():
            pages.take(slot, wanted)
        return cache

    def _on_mesh(self, function: Callable, *args: Any) -> Any:
        with jax.set_mesh(self._mesh):  # not around a yield, or the caller would get it too
            return function(*args)

    def _forests(
        self, pool: ThreadPoolExecutor, batches: Sequence[Batch], rows: int, load: Load
    ) -> Iterator[tuple[Batch, Forest]]:
        """The batches, each packed and on the mesh; some are loaded ahead."""
        sharding = NamedSharding(self._mesh, PartitionSpec(ROW_AXES))
        spans = sharding.addressable_devices_indices_map((rows,)).values()
        ours = {row for (span,) in spans for row in range(rows)[span]}

        def packed(batch: Batch) -> Forest:
            numbers = dict(enumerate(batch.numbers))
            trees = [load(numbers[row]) if row in ours and row in numbers else None for row in range(rows)]
            return pack_trunks(trees, batch.size, self._processor)

        def place(array: np.ndarray) -> jax.Array:
            return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

        begun = collections.deque(pool.submit(packed, batch) for batch in batches[:LOADERS])
        try:
            for batch, following in itertools.zip_longest(batches, batches[LOADERS:]):
                if following:
                    begun.append(pool.submit(packed, following))
                yield batch, jax.tree.map(place, begun.popleft().result())
        finally:
            for future in begun:
                future.cancel()


def _to_come(lowered: jax.stages.Lowered) -> Any:
    """The shapes and shardings of what a program gives."""
    return jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        lowered.out_info,
        lowered.compile().output_shardings,
    )


class _Pending(NamedTuple):
    """An answer to come, to the prompt in a row of a prefill."""

    row: int
    prompt: int
    sample: int


class _Table:
    """Whose answer is in which slot, and what each has written."""

    def __init__(self, prompts: Sequence[Prompt], slots: int, answer_tokens: int, stop_tokens: frozenset[int]):
        self._prompts, self._answer_tokens, self._stop_tokens = prompts, answer_tokens, stop_tokens
        self.slots = SlotState(
            *(np.zeros(slots, np.uint32 if field == "name_B" else np.int32) for field in SlotState._fields)
        )
        self.free = list(range(slots))
        self.taken: dict[int, Completion] = {}
        """Answers that have not ended, by slot."""

    def assign(self, waiting: collections.deque[_Pending], *, at_most: int) -> tuple[np.ndarray, np.ndarray]:
        """Takes the first from `waiting` into free slots; returns from which row to which slot, as `cache.insert`."""
        row_M, slot_M = np.zeros(at_most, np.int32), np.full(at_most, len(self.slots.token_B), np.int32)
        for move in range(min(len(waiting), len(self.free), at_most)):
            row_M[move], number, sample = waiting.popleft()
            slot_M[move] = slot = self.free.pop()
            prompt = self._prompts[number]
            start = (prompt.last_token, prompt.size.tokens, prompt.last_position, name_number(prompt.name), sample, 0)
            for array, value in zip(self.slots, start, strict=True):
                array[slot] = value
            self.taken[slot] = Completion(number, sample, [])
        return row_M, slot_M

    def record_states(self, state_BD: jax.Array) -> None:
        """Keeps those of the slots of which no token was decoded before: they are of a prompt's last token."""
        begun = [slot for slot in self.taken if self.slots.index_B[slot] == 0]
        if begun:  # else nothing need leave the devices
            state_BD = np.asarray(state_BD)
            self.taken |= {slot: self.taken[slot]._replace(state_D=state_BD[slot].copy()) for slot in begun}

    def positions(self, slots: Iterable[int], *, ahead: int = 0) -> dict[int, int]:
        """Those of the texts in these slots, if they are taken, and of so many tokens more as far as allowed."""
        found = {}
        for slot in slots:
            if answer := self.taken.get(slot):
                most = self._prompts[answer.prompt].size.tokens + self._answer_tokens
                found[slot] = min(int(self.slots.cache_position_B[slot]) + ahead, most)
        return found

    def advance(self, token_KB: np.ndarray) -> Iterator[tuple[int, Completion]]:
        """Adds the tokens to the answers; frees the slots of those that have ended, and gives both out."""
        tokens_B = token_KB.T.tolist()
        ended = [slot for slot, answer in self.taken.items() if self._has_ended(answer, tokens_B[slot])]
        for slot in ended:
            self.free.append(slot)
            yield slot, self.taken.pop(slot)
        going = list(self.taken)
        self.slots.token_B[going] = token_KB[-1, going]
        for array in (self.slots.cache_position_B, self.slots.position_B, self.slots.index_B):
            array[going] += len(token_KB)

    def _has_ended(self, answer: Completion, following: list[int]) -> bool:
        most = self._prompts[answer.prompt].most_tokens
        most = self._answer_tokens if most is None else min(most, self._answer_tokens)
        for token in following:
            if token in self._stop_tokens:
                return True
            answer.tokens.append(token)
            if len(answer.tokens) == most:
                return True
        return False
