"""What the tests of all families need to know of one: a row of `tests/support/zoo.py`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmkp_jax.data.forest import Tree
from mmkp_jax.models.definition import Definition
from mmkp_jax.pocket.tokenizer import Vocabulary

PLAIN_TOKENS = 300
"""Tokens of a tiny tokenizer before the special ones: the bytes and a few merges."""

TEXT_TOKENS = 290
"""Random texts are of tokens below this."""


def number_of(vocabulary: Vocabulary, token: str) -> int:
    """The number of a special token in a tiny tokenizer."""
    return PLAIN_TOKENS + vocabulary.special_tokens.index(token)


@dataclasses.dataclass(frozen=True)
class Member:
    """A family, or another published layout of one, in tiny sizes."""

    vocabulary: Vocabulary
    geometries: Mapping[str, Mapping[str, Any]]
    """The `config.json` of models, by what they are to show. The default tier takes the first; token numbers are those
    of a tiny tokenizer (`number_of`), vocabularies have at least 320 rows."""
    files: Callable[[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]]
    """`config.json` -> other JSON files of such a model's folder, `generation_config.json` among them."""
    layout_of: str = ""
    """Of two layouts of one model, the other member, which stands for both where nothing is read from files."""
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Further files of a model folder, such as code."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(height, width) of at least three images that become different layouts, the cheapest first; empty in a family
    without images."""
    image_inputs: Callable[[Tree, Any, Definition], Mapping[str, Any]] = lambda tree, ids, definition: {}
    """(tree, token numbers as a PyTorch tensor [1, T], definition) -> transformers' inputs for the tree's images,
    besides those of `Reference.inputs`."""
    reference_config: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda published: published
    """The `config.json` with which transformers computes the same: of another layout, or by its own count."""
    draw: Callable[[str, tuple[int, ...], np.random.Generator], np.ndarray | None] = lambda path, shape, random: None
    """Random numbers for a parameter; None for those of `random_params`."""
