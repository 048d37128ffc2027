"""The assignment of completions to slots, on the host: it depends on the tokens only.

B slots, M moves, K tokens between two syncs with the host, D model width.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from mmkp_jax.data.prompts import MODES
from mmkp_jax.decoding.prompts import Prompt
from mmkp_jax.decoding.sampling import name_number


class Completion(NamedTuple):
    """A text that the model generated."""

    prompt: int
    """Number of the prompt."""
    sample: int
    """Number of the sample for this prompt, from 0."""
    tokens: list[int] | None
    """Token numbers without the stop token; None for a prompt that could not be loaded."""
    logprobs: list[float] | None = None
    """The log-probability of each token by the model itself, in nats; None where `tokens` is."""
    state_D: np.ndarray | None = None
    """float32: the hidden state of the prompt's last token after the last norm; None where `tokens` is."""
    think: float | None = None
    """Probability of a chain of thought after the prompt, whatever its mode; None where it is not measured."""


class SlotState(NamedTuple):
    """The state of decoding in each slot; on the host, since it depends on the tokens only."""

    token_B: np.ndarray
    """int32: the last token of its text so far."""
    cache_position_B: np.ndarray
    """int32: the position of that token in the text."""
    position_B: np.ndarray
    """int32: its rotary position, the same on all axes."""
    name_B: np.ndarray
    """uint32: `sampling.name_number` of the prompt."""
    sample_B: np.ndarray
    """int32: number of the sample."""
    index_B: np.ndarray
    """int32: index of the next token in the completion."""
    mode_B: np.ndarray
    """int32: index in `MODES` of the prompt's mode."""


class Pending(NamedTuple):
    """A completion that waits for a slot, of the prompt in a row of a prefill."""

    row: int
    prompt: int
    sample: int


class Table:
    """The assignment of completions to slots, and their tokens so far."""

    def __init__(
        self,
        prompts: Sequence[Prompt] | Mapping[int, Prompt],
        slots: int,
        answer_tokens: int,
        stop_tokens: frozenset[int],
    ):
        self._prompts, self._answer_tokens, self._stop_tokens = prompts, answer_tokens, stop_tokens
        self.slots = SlotState(
            *(np.zeros(slots, np.uint32 if field == "name_B" else np.int32) for field in SlotState._fields)
        )
        self.free = list(range(slots))
        self.taken: dict[int, Completion] = {}
        """Unfinished completions, by slot."""

    def assign(self, waiting: collections.deque[Pending], *, at_most: int) -> tuple[np.ndarray, np.ndarray]:
        """Assigns the first of `waiting` to free slots; returns the moves (row, slot), as `cache.insert` takes them."""
        row_M, slot_M = np.zeros(at_most, np.int32), np.full(at_most, len(self.slots.token_B), np.int32)
        for move in range(min(len(waiting), len(self.free), at_most)):
            row_M[move], number, sample = waiting.popleft()
            slot_M[move] = slot = self.free.pop()
            prompt = self._prompts[number]
            position, mode = prompt.last_position, MODES.index(prompt.mode)
            start = (prompt.last_token, prompt.size.tokens, position, name_number(prompt.name), sample, 0, mode)
            for array, value in zip(self.slots, start, strict=True):
                array[slot] = value
            self.taken[slot] = Completion(number, sample, [], [])
        return row_M, slot_M

    def record_states(self, state_BD: jax.Array, think: Callable[[jax.Array], jax.Array] | None = None) -> None:
        """Records the states of slots that just began: they belong to a prompt's last token.

        Args:
            think: gives the probability of a chain of thought [B] for such states; None where it is not measured.
        """
        begun = [slot for slot in self.taken if self.slots.index_B[slot] == 0]
        if begun:  # otherwise nothing has to leave the devices
            measured = {} if think is None else dict(enumerate(np.asarray(think(state_BD)).tolist()))
            state_BD = np.asarray(state_BD)
            for slot in begun:
                found = dict(state_D=state_BD[slot].copy(), think=measured.get(slot))
                self.taken[slot] = self.taken[slot]._replace(**found)

    def positions(self, slots: Iterable[int], *, ahead: int = 0) -> dict[int, int]:
        """Positions of the texts in those of `slots` that are taken, `ahead` tokens later, up to the allowed length."""
        found = {}
        for slot in slots:
            if completion := self.taken.get(slot):
                most = self._prompts[completion.prompt].size.tokens + self._answer_tokens
                found[slot] = min(int(self.slots.cache_position_B[slot]) + ahead, most)
        return found

    def advance(self, token_KB: np.ndarray, logprob_KB: np.ndarray) -> Iterator[tuple[int, Completion]]:
        """Adds the tokens to the completions; frees the slots of those that have ended, and yields both."""
        tokens_B, logprobs_B = token_KB.T.tolist(), logprob_KB.T.tolist()
        ended = [slot for slot, each in self.taken.items() if self._has_ended(each, tokens_B[slot], logprobs_B[slot])]
        for slot in ended:
            self.free.append(slot)
            yield slot, self.taken.pop(slot)
        going = list(self.taken)
        self.slots.token_B[going] = token_KB[-1, going]
        for array in (self.slots.cache_position_B, self.slots.position_B, self.slots.index_B):
            array[going] += len(token_KB)

    def drop(self, number: int) -> list[int]:
        """Frees the slots of a prompt's unfinished completions, which are lost; returns the slots."""
        slots = [slot for slot, each in self.taken.items() if each.prompt == number]
        for slot in slots:
            self.free.append(slot)
            del self.taken[slot]
        return slots

    def _has_ended(self, completion: Completion, following: list[int], logprobs: list[float]) -> bool:
        most = self._prompts[completion.prompt].most_tokens
        most = self._answer_tokens if most is None else min(most, self._answer_tokens)
        for token, logprob in zip(following, logprobs, strict=True):
            if token in self._stop_tokens:
                return True
            completion.tokens.append(token)
            completion.logprobs.append(logprob)
            if len(completion.tokens) == most:
                return True
        return False
