"""A packed row for people: its images reassembled, its tokens as text, and which of them carry loss.

Everything is read from the arrays that the step takes; nothing is computed a second time.
"""

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmkp_jax.data.forest import Forest, map_arrays
from mmkp_jax.data.processor import Processor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHARACTER_TOKENS = 4
"""Most tokens that one character may span: its bytes in UTF-8."""


class Piece(NamedTuple):
    """One token, a run of image tokens, or the tokens of one character."""

    text: str
    tokens: int
    special: bool
    """Whether it is a special token, which no text becomes."""


class RowSpan(NamedTuple):
    """The slots of one tree that have the same branch: its trunk or a target."""

    segment: int
    """Which example of the row it is, from 1."""
    branch: int
    """0 trunk, 1 SFT target, 2 CoT target."""
    slots: range
    fed: list[Piece]
    """The tokens in the slots."""
    labels: list[Piece]
    """The tokens that are predicted from them and carry loss, in the order of the slots."""


class RowPreview(NamedTuple):
    """One row of a batch."""

    images: list[np.ndarray]
    """uint8 [height, width, 3] each: RGB, as resized."""
    parts: list[RowSpan]


def preview_row(forest: Forest, row: int, processor: Processor, tokenizer: "PreTrainedTokenizerBase") -> RowPreview:
    """What row `row` of a batch holds."""
    arrays = map_arrays(lambda array: array[row], forest)
    counts_M = arrays.weight_BM > 0
    label_T = np.full(len(arrays.token_BT), -1, np.int64)
    label_T[arrays.label_slot_BM[counts_M]] = arrays.label_BM[counts_M]
    parts = []
    for start, end in _runs(arrays):
        fed_T, labels_T = arrays.token_BT[start:end], label_T[start:end]
        pieces = [pieces_of(tokens, tokenizer, processor.image_token) for tokens in (fed_T, labels_T[labels_T >= 0])]
        segment, branch = int(arrays.segment_BT[start]), int(arrays.branch_BT[start])
        parts.append(RowSpan(segment, branch, range(start, end), *pieces))
    return RowPreview(processor.rgb(arrays.images), parts)


def _runs(arrays: Forest) -> list[tuple[int, int]]:
    """(start, end) slots of each tree's trunk and branches; padding is left out."""
    kind_T2 = np.stack([arrays.segment_BT, arrays.branch_BT], axis=-1)
    begins = np.flatnonzero((kind_T2[1:] != kind_T2[:-1]).any(axis=1)) + 1
    bounds = [0, *begins.tolist(), len(kind_T2)]
    return [(start, end) for start, end in itertools.pairwise(bounds) if kind_T2[start, 0]]


def pieces_of(token_T: np.ndarray, tokenizer: "PreTrainedTokenizerBase", image_token: int | None) -> list[Piece]:
    """The tokens as text, one piece each; a run of image tokens, or the tokens of one character, is one piece."""
    special = tokenizer.added_tokens_decoder
    tokens, pieces, at = token_T.tolist(), [], 0
    while at < len(tokens):
        token, run = tokens[at], 1
        if token in special:
            while token == image_token and tokens[at + run : at + run + 1] == [token]:
                run += 1
            text = special[token].content
        else:
            run = _whole_character(tokens[at : at + CHARACTER_TOKENS], tokenizer)
            text = _text(tokens[at : at + run], tokenizer)
        pieces.append(Piece(text, run, token in special))
        at += run
    return pieces


def _whole_character(tokens: list[int], tokenizer: "PreTrainedTokenizerBase") -> int:
    """Number of leading tokens that make up a whole character; 1 where none do."""
    runs = range(1, len(tokens) + 1)
    return next((run for run in runs if "\ufffd" not in _text(tokens[:run], tokenizer)), 1)


def _text(tokens: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    return tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
