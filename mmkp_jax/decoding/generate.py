"""Completions to prompts, decoded in slots that are refilled as soon as their completion has ended.

Prompts that share a trunk are prefilled once, in one row, which is copied to the slots of all their completions.

B slots, R rows of a prefill, M moves, J pages of a slot, K tokens between two syncs with the host, V vocabulary,
D model width, I pairs of a head.

Every process of a run has the same prompts and takes the same decisions from the same tokens, which leave the devices
along with the prompts' states; each loads the images of its own rows only, and each yields all completions.
"""

import collections
import contextlib
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmkp_jax.data.forest import Forest, RowSize, Tree, empty_rows
from mmkp_jax.decoding.cache import Cache, Weights, empty_cache, extend, grown, image_keys, insert, prefill, weights_of
from mmkp_jax.decoding.paging import Pages, PageTable
from mmkp_jax.decoding.prompts import (
    Batch,
    Prompt,
    any_of,
    pack_trunks,
    padded_size,
    plan_batches,
    with_equal_trunks,
)
from mmkp_jax.decoding.sampling import (
    GREEDY,
    Sampling,
    banned_first,
    forced_opening,
    log_probabilities,
    sample_tokens,
)
from mmkp_jax.decoding.slots import Completion, Pending, SlotState, Table
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.models.layers import Rotation
from mmkp_jax.ops.layout import ROW_AXES, over_rows

MOST_ROWS = 8
"""Prompts that a device prefills at a time, at most."""

LOADERS = min(8, os.cpu_count() or 1)
"""Threads that decode images; each is a batch ahead."""

Load = Callable[[int], Tree | None]
"""(prompt number) -> the prompt with its images' pixels; None if it is not available. Called in threads, for one of the
prompts that share a trunk after the other until one is available: it answers for all."""


class Generator:
    """Generates with one model and one configuration; keeps its compiled programs between calls.

    Args:
        mesh: the mesh of the parameters; slots are divided over its axes data and fsdp.
        slots: most completions decoded at a time; rounded up to a multiple that the mesh divides.
        answer_tokens: most tokens of a completion.
        stop_tokens: any of them ends a completion, and is not part of it.
        opening: the tokens that every chain of thought begins with, for prompts with a mode and for the probability of
            a chain; empty where neither is needed.
        dtype: dtype of the model's computation; logits are at least float32.
        sync_every: tokens decoded between two checks by the host of which completions have ended.
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
        opening: Sequence[int] = (),
        sync_every: int = 8,
    ):
        self._mesh, self._processor = mesh, definition.processor
        self._shards = math.prod(mesh.shape[axis] for axis in ROW_AXES)
        self._slots, self._answer_tokens, self._stop_tokens = slots, answer_tokens, frozenset(stop_tokens)
        self._opening = tuple(opening)

        def logits_of(weights: Weights, hidden_BD: jax.Array) -> jax.Array:
            wide = jnp.promote_types(dtype, jnp.float32)
            return jnp.einsum("bd,vd->bv", hidden_BD, weights.head_VD, preferred_element_type=wide)

        def think(weights: Weights, state_BD: jax.Array) -> jax.Array:
            share_BV = jax.nn.softmax(logits_of(weights, over_rows(state_BD.astype(dtype))), axis=-1)
            return jax.lax.with_sharding_constraint(share_BV[:, self._opening[0]], PartitionSpec())

        def filled(params: Params, trunks: Forest, width: int) -> tuple[Cache, jax.Array]:
            there_R = jax.lax.with_sharding_constraint((trunks.segment_BT > 0).any(axis=1), PartitionSpec())
            return prefill(definition.bind(params), trunks, width, dtype), there_R

        def decode(
            params: Params, weights: Weights, cache: Cache, pages: Pages, slots: SlotState
        ) -> tuple[Cache, jax.Array, jax.Array, jax.Array]:
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
                logits_BV = logits_of(weights, hidden_BD)
                if self._opening:
                    logits_BV = banned_first(logits_BV, self._opening, at.mode_B, at.index_B)
                token_B = over_rows(sample_tokens(logits_BV, sampling, at.name_B, at.sample_B, at.index_B))
                if self._opening:
                    token_B = forced_opening(token_B, self._opening, at.mode_B, at.index_B)
                logprob_B = log_probabilities(logits_BV, token_B)
                following = at._replace(
                    token_B=token_B, cache_position_B=at.cache_position_B + 1, index_B=at.index_B + 1
                )
                return (cache, following), (token_B, logprob_B, hidden_BD)

            (cache, _), (token_KB, logprob_KB, hidden_KBD) = jax.lax.scan(one_more, (cache, slots), rotations)
            outputs = token_KB, logprob_KB.astype(jnp.float32), hidden_KBD[0].astype(jnp.float32)
            return cache, *jax.lax.with_sharding_constraint(outputs, PartitionSpec())

        self._sync_every = sync_every
        self._empty = jax.jit(functools.partial(empty_cache, definition, dtype=dtype), static_argnums=(0, 1, 2, 3))
        self._keys = functools.partial(image_keys, definition, dtype=dtype)
        self._grown = jax.jit(grown, static_argnums=1)
        # unused parameters stay where they are too: they count as memory of the program
        self._prefill = jax.jit(filled, static_argnums=2, keep_unused=True)
        self._insert = jax.jit(insert, donate_argnums=0)
        self._weights = jax.jit(lambda params: weights_of(definition.bind(params), dtype))
        self._decode = jax.jit(decode, donate_argnums=2, keep_unused=True)
        self._think = jax.jit(think)

    def __call__(
        self, params: Params, prompts: Sequence[Prompt], load: Load, num_samples: int = 1
    ) -> Iterator[Completion]:
        """Yields `num_samples` completions of each prompt, in the order in which they end.

        For few completions there are only as many slots as needed, rounded up to a power of two.

        Raises:
            ValueError: a prompt has a mode, and the generator has no opening.
        """
        if not self._opening and any(prompt.mode != "auto" for prompt in prompts):
            raise ValueError("a prompt's mode needs the opening of a chain of thought")
        slots, rows = self._sizes(min(self._slots, 1 << (len(prompts) * num_samples - 1).bit_length()))
        groups = with_equal_trunks(prompts)
        batches = plan_batches([prompts[first] for first, *_ in groups], rows)
        session = Session(self, params, prompts, [batch.size for batch in batches], slots)
        trunks, waiting = None, collections.deque[Pending]()  # the rows prefilled last, and what waits for a slot
        with (
            ThreadPoolExecutor(LOADERS) as pool,
            contextlib.closing(self._forests(pool, batches, rows, any_of(load, groups))) as forests,  # before the pool
        ):
            while True:
                while session.table.free and (waiting or (loaded := next(forests, None))):
                    if not waiting:
                        (batch, forest), loaded, trunks = loaded, None, None  # frees the batch before
                        trunks, there_R = session.prefill(forest)
                        there_R, forest = np.asarray(there_R), None
                        shared = [(row, n) for row, group in enumerate(batch.numbers) for n in groups[group]]
                        pending = [Pending(row, n, i) for row, n in shared for i in range(num_samples)]
                        waiting.extend(each for each in pending if there_R[each.row])
                        yield from (Completion(p.prompt, p.sample, None) for p in pending if not there_R[p.row])
                    session.insert(trunks, waiting, at_most=-(-rows // 4))  # few slots are free at a time
                if not session.table.taken:
                    return
                yield from session.decode()

    def rows(self) -> int:
        """Prompts that a prefill of all slots takes."""
        return self._sizes(self._slots)[1]

    def place(self, forest: Forest) -> Forest:
        """Packed rows as arrays on the mesh; every process has all rows."""
        sharding = NamedSharding(self._mesh, PartitionSpec(ROW_AXES))
        return jax.tree.map(lambda array: jax.device_put(array, sharding), forest)

    def lower(self, params: Params, size: RowSize) -> dict[str, jax.stages.Lowered]:
        """The programs for prompts of one size, lowered: nothing is computed or loaded.

        Decoding has the most pages possible: every slot's text has its greatest length. The growth of the cache is the
        last one, to that size, if it ever grows.

        Args:
            params: shapes and shardings of the parameters.
            size: size of the longest prompt; may be rounded up.
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
        keys = self._keys(size)  # of one row, which a mesh would not divide
        with jax.set_mesh(self._mesh):
            room = pages.width, slots, keys
            cache = _result_structs(self._empty.lower(pages.in_all, *room))
            weights = _result_structs(self._weights.lower(params))
            free = Table([], slots, self._answer_tokens, frozenset()).slots
            programs = {
                "prefill": self._prefill.lower(params, trunks, pages.width),
                "decode": self._decode.lower(params, weights, cache, pages.pages, free),
            }
            if fewer < pages.most:
                before = _result_structs(self._empty.lower(self._shards * fewer, *room))
                programs["growth"] = self._grown.lower(before, pages.in_all)
            return programs

    def _sizes(self, wanted: int) -> tuple[int, int]:
        """(slots, rows of a prefill) that the mesh divides."""
        of_shard = -(-wanted // self._shards)
        return self._shards * of_shard, self._shards * min(MOST_ROWS, -(-of_shard // 4))

    def _pages(self, slots: int, trunk_tokens: int) -> PageTable:
        """A page table with room for trunks and their first tokens."""
        pages = PageTable(self._shards, slots, trunk_tokens + self._answer_tokens)
        pages.grow(slots // self._shards * -(-(trunk_tokens + self._sync_every) // pages.width))
        return pages

    def _on_mesh(self, function: Callable, *args: Any) -> Any:
        with jax.set_mesh(self._mesh):  # not around a yield: it would apply to the caller too
            return function(*args)

    def _forests(
        self, pool: ThreadPoolExecutor, batches: Sequence[Batch], rows: int, load: Load
    ) -> Iterator[tuple[Batch, Forest]]:
        """Yields the batches, packed and on the mesh; some are loaded ahead."""
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


class Session:
    """The slots of a generator in use: their table, their pages and their cache.

    Args:
        prompts: the prompts by number; some may come later, if they fit `sizes`.
        sizes: sizes of prompts, the largest among them.
        slots: completions decoded at a time, as the mesh divides them; None for the generator's.
        most_pages: whether the cache has room for the longest texts in all slots from the start, so that it never
            grows, and decoding is compiled once.
    """

    def __init__(
        self,
        generator: Generator,
        params: Params,
        prompts: Sequence[Prompt] | Mapping[int, Prompt],
        sizes: Sequence[RowSize],
        slots: int | None = None,
        *,
        most_pages: bool = False,
    ):
        slots = generator._sizes(generator._slots)[0] if slots is None else slots
        self._generator, self._params, self._on_mesh = generator, params, generator._on_mesh
        self._pages = generator._pages(slots, max((size.tokens for size in sizes), default=0))
        if most_pages:
            self._pages.grow(self._pages.most)
        self.table = Table(prompts, slots, generator._answer_tokens, generator._stop_tokens)
        distinct = {tuple(size.slots().items()): size for size in sizes}.values()
        keys = max(map(generator._keys, distinct), default=0)
        self._cache = self._on_mesh(generator._empty, self._pages.in_all, self._pages.width, slots, keys)
        self._weights = self._on_mesh(generator._weights, params)
        self._think = functools.partial(self._on_mesh, generator._think, self._weights) if generator._opening else None

    def prefill(self, forest: Forest) -> tuple[Cache, jax.Array]:
        """Keys and values of the trunks of a batch on the mesh, and whether each row has one: bool [R]."""
        return self._on_mesh(self._generator._prefill, self._params, forest, self._pages.width)

    def insert(self, trunks: Cache, waiting: collections.deque[Pending], *, at_most: int) -> None:
        """Begins the first completions of `waiting`, of rows of `trunks`, in free slots.

        Args:
            at_most: the number of moves that `insert` is compiled for.
        """
        row_M, slot_M = self.table.assign(waiting, at_most=at_most)
        self._make_room(self.table.positions(slot_M))
        numbers_MJ = self._pages.numbers_of(slot_M)
        self._cache = self._on_mesh(self._generator._insert, self._cache, trunks, row_M, slot_M, numbers_MJ)

    def decode(self) -> Iterator[Completion]:
        """Decodes up to the next sync with the host, and yields the completions that have ended."""
        table, pages, generator = self.table, self._pages, self._generator
        self._make_room(table.positions(table.taken, ahead=generator._sync_every))
        self._cache, token_KB, logprob_KB, state_BD = self._on_mesh(
            generator._decode, self._params, self._weights, self._cache, pages.pages, table.slots
        )
        table.record_states(state_BD, self._think)
        for slot, completion in table.advance(np.asarray(token_KB), np.asarray(logprob_KB)):
            pages.give_back(slot)
            yield completion

    def drop(self, number: int) -> None:
        """Ends the completions of a prompt, which are not yielded."""
        for slot in self.table.drop(number):
            self._pages.give_back(slot)

    def _make_room(self, positions: dict[int, int]) -> None:
        """Enlarges the cache if slots need more pages for these numbers of positions, and assigns the pages."""
        if (needed := self._pages.needed(positions)) > self._pages.count:
            self._pages.grow(needed)
            self._cache = self._on_mesh(self._generator._grown, self._cache, self._pages.in_all)
        for slot, wanted in positions.items():
            self._pages.take(slot, wanted)


def _result_structs(lowered: jax.stages.Lowered) -> Any:
    """Shapes and shardings of a program's results."""
    return jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        lowered.out_info,
        lowered.compile().output_shardings,
    )
