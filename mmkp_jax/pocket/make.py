"""Makes pocket: posts, images and a model in one folder, written atomically."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.pocket.posts import SIZES, PocketPost, make_posts, write_posts
from mmkp_jax.pocket.world import make_world
from mmkp_jax.runtime.atomic import making_folder, write_json

VERSION = 1
"""Increased when the same seed gives other posts or another model."""

POCKET = Path("runs/pocket")
"""The folder that the default experiment makes."""

STAMP = "pocket.json"
"""The file with the version, seed and sizes of a pocket."""


def make_pocket(out: Path, seed: int = 0, sizes: Mapping[str, int] = SIZES) -> None:
    """Writes `posts/{train,valid,test}.jsonl`, `images/`, `needs.jsonl` and `model/` into `out`.

    An existing pocket with the same seed and sizes is kept.

    Args:
        out: the folder, created if it does not exist.
        seed: the seed of posts, images and model.
        sizes: posts of each split.

    Raises:
        InputError: `out` holds something else.
    """
    stamp = {"version": VERSION, "seed": seed, "sizes": dict(sizes)}
    make_once(out, stamp, lambda unfinished: _write(unfinished, seed, sizes))


def make_once(out: Path, stamp: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Makes a folder with a stamp atomically; one with the same stamp is kept.

    Args:
        write: writes everything but the stamp into the folder it is given.

    Raises:
        InputError: `out` holds something else.
    """
    if _is_made(out, stamp):
        return
    with making_folder(out, lambda: _is_made(out, stamp)) as unfinished:
        write(unfinished)
        write_json(unfinished / STAMP, stamp, indent=None)


def _write(out: Path, seed: int, sizes: Mapping[str, int]) -> None:
    from mmkp_jax.pocket.model import write_model  # takes seconds to import
    from mmkp_jax.pocket.tokenizer import train_tokenizer

    splits = make_posts(make_world(seed), seed, sizes)
    write_posts(splits, seed, out)
    write_model(train_tokenizer(texts_of(splits["train"])), seed, out / "model")


def texts_of(posts: Iterable[PocketPost]) -> Iterator[str]:
    """The texts of posts that a tokenizer is trained on."""
    for post in posts:
        yield from (post.text, "; ".join(post.keyphrases), post.cot or "")


def _is_made(out: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether `out` is this pocket; raises `InputError` if it holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == stamp:
        return True
    what = "this is not a pocket" if found is None else "this pocket has another seed, size or version"
    raise InputError(what, str(out), "give another folder, or remove it")


def make(root: Path = POCKET) -> None:
    """Makes pocket and its prepared dataset unless they exist; a config's `make` calls this."""
    make_pocket(root)
    prepare_posts(root)


def prepare_posts(root: Path, sizes: Mapping[str, int] = SIZES) -> None:
    """Prepares the posts and images of a pocket as its dataset, unless it exists."""
    from mmkp_jax.data.posts import read_jsonl
    from mmkp_jax.data.records import write_dataset

    dataset = root / "dataset"
    if dataset.exists():
        return
    splits = {split: read_jsonl(root / "posts" / f"{split}.jsonl") for split in sizes}
    with making_folder(dataset, dataset.exists) as unfinished:
        write_dataset(unfinished, splits, root / "images")
