"""Prompts in rows of a few static sizes, for prefill.

A prompt's trunk is prefilled: all but its last token, with which decoding begins. Equal trunks are prefilled once.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mmkp_jax.data.forest import Forest, RowSize, Tree, pack_rows, tree_size
from mmkp_jax.data.processor import Processor
from mmkp_jax.data.prompts import Mode

SHORT = 256
"""Trunks of up to this many tokens share a size: compiling for another costs more than their padding."""


class Prompt(NamedTuple):
    """What is known of a prompt before its images are decoded."""

    name: str
    """Name that random sampling depends on; no two prompts of a mode should share one."""
    size: RowSize
    """The slots that its trunk takes in a row."""
    last_token: int
    last_position: int
    """The last token's position, the same on all axes."""
    most_tokens: int | None = None
    """Most tokens of a completion, if fewer than the generator allows."""
    mode: Mode = "auto"
    """Whether its completions must begin with a chain of thought (`think`), must not (`direct`), or may."""
    trunk: bytes = b""
    """The same for prompts of the same tokens and images, and for no others; empty where that is not known."""


class Batch(NamedTuple):
    """The prompts of one prefill, a row each, by number; rows after them stay empty."""

    numbers: list[int]
    size: RowSize


def prompt_of(name: str, tree: Tree, processor: Processor) -> Prompt:
    """The prompt of a tree; its targets and pixels are not used.

    Raises:
        ValueError: the prompt has no token but its last, or does not end with a text token.
    """
    if len(tree.prompt) < 2 or tree.prompt[-1] == processor.image_token:
        raise ValueError(f"the prompt {name!r} must have two tokens at least and end with a text token")
    last = processor.positions(tree.prompt, tree.layouts)[-1, 0]
    return Prompt(name, tree_size(trunk_of(tree), processor), int(tree.prompt[-1]), int(last))


def name_trunk(prompt: np.ndarray, images: Sequence[bytes]) -> bytes:
    """`Prompt.trunk` of these tokens and image files: the same for the same ones."""
    found = hashlib.blake2b(prompt.astype(np.int32).tobytes(), digest_size=16)
    for image in images:
        found.update(hashlib.blake2b(image).digest())
    return found.digest()


def trunk_of(tree: Tree) -> Tree:
    """The tree without its targets."""
    nothing = np.zeros(0, np.int32)
    return dataclasses.replace(tree, sft=nothing, cot=nothing)


def with_equal_trunks(prompts: Sequence[Prompt]) -> list[list[int]]:
    """The numbers of the prompts, those that share a trunk together; each in the order of the first."""
    together: dict[bytes | int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        together.setdefault(prompt.trunk or number, []).append(number)
    return list(together.values())


def any_of(load: Callable[[int], Tree | None], groups: Sequence[Sequence[int]]) -> Callable[[int], Tree | None]:
    """(group) -> the first of its prompts that is available."""
    return lambda group: next((tree for number in groups[group] if (tree := load(number)) is not None), None)


def plan_batches(prompts: Sequence[Prompt], rows: int) -> list[Batch]:
    """Batches of at most `rows` prompts of similar length, the longest first; each prompt is in one.

    Lengths are similar up to `SHORT` tokens, and from one power of two to the next. Rows are as large as the largest
    prompt needs, rounded up: so there are few sizes to compile for, and other posts share them.
    """
    alike: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        alike.setdefault((max(prompt.size.tokens, SHORT) - 1).bit_length(), []).append(number)
    batches = []
    for _, numbers in sorted(alike.items(), reverse=True):
        size = padded_size([prompts[number].size for number in numbers])
        batches += [Batch(numbers[i : i + rows], size) for i in range(0, len(numbers), rows)]
    return batches


def padded_size(sizes: Sequence[RowSize]) -> RowSize:
    """A row size that holds any of these trunks, rounded up so that there are few sizes to compile for."""
    return RowSize(
        tokens=_round_up(max(each.tokens for each in sizes), 8),
        labels=0,
        examples=1,
        images={kind: _round_up(max(each.images[kind] for each in sizes), 1) for kind in sizes[0].images},
    )


def pack_trunks(trees: Sequence[Tree | None], size: RowSize, processor: Processor) -> Forest:
    """Packs one trunk per row; a row without a tree is empty."""
    return pack_rows([[] if tree is None else [trunk_of(tree)] for tree in trees], size, processor)


def _round_up(n: int, unit: int) -> int:
    """The next multiple of `unit` that has three binary digits before its zeros, or fewer."""
    unit = max(unit, 1 << max(0, (n - 1).bit_length() - 3))
    return -(-n // unit) * unit
