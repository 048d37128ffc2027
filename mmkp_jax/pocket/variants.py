"""Models of other families for pocket's posts: `model=pocket_*` of `configs/presets.py`.

Their folders are next to pocket's: `runs/pocket_llama3_2/model` and so on, and all train on `runs/pocket/dataset`. Each
has a family's architecture and the layout of its published files, with a few million random parameters.

To add one, write a module here with a `VARIANT` and a `make()` that is `make_variant(VARIANT)`, as `llama3_2.py` does;
in `configs/presets.py` add a function that calls `pocket_variant` to `PRESETS["model"]`; and a row to
`tests/pocket/test_variants.py`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmkp_jax.pocket.make import POCKET, STAMP, make, make_once
from mmkp_jax.pocket.tokenizer import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Variant(NamedTuple):
    """A small model of a family, for pocket's posts."""

    name: str
    """The preset, and the folder's name."""
    vocabulary: Vocabulary
    config: Callable[["PreTrainedTokenizerBase"], Mapping[str, Any]]
    """Makes the `config.json`, in the layout of the published ones."""
    files: Callable[["PreTrainedTokenizerBase"], Mapping[str, Mapping[str, Any]]]
    """Makes the other JSON files by name: `generation_config.json`, and what images need."""
    constant: Callable[[str], float | None] = lambda path: None
    """Parameters that begin as one number, as in `model.initial_params`."""
    version: int = 1
    """Increased when the same seed gives another model."""


def make_variant(variant: Variant, pocket: Path = POCKET, seed: int = 0) -> None:
    """Makes pocket with its dataset, and the variant's model next to it, unless they exist.

    Raises:
        InputError: the variant's folder holds something else.
    """
    make(pocket)
    stamp = {"version": variant.version, "seed": seed, "pocket": json.loads((pocket / STAMP).read_text("utf-8"))}
    make_once(pocket.parent / variant.name, stamp, lambda out: write_variant(variant, pocket, out / "model", seed))


def texts_of(posts: Iterable[Any]) -> Iterator[str]:
    """The texts that a tokenizer is trained on: text, keyphrases and chain of thought of each post."""
    for post in posts:
        yield from (post.text, "; ".join(post.keyphrases), post.cot or "")


def write_variant(variant: Variant, pocket: Path, out: Path, seed: int) -> None:
    """Writes the variant's model folder, its tokenizer trained on a pocket's training posts."""
    from mmkp_jax.data.posts import read_jsonl
    from mmkp_jax.pocket.model import write_folder  # takes seconds to import
    from mmkp_jax.pocket.tokenizer import train_tokenizer

    texts = texts_of(read_jsonl(pocket / "posts" / "train.jsonl"))
    tokenizer = train_tokenizer(texts, variant.vocabulary)
    write_folder(out, tokenizer, variant.config(tokenizer), variant.files(tokenizer), seed, variant.constant)
