"""Makes pocket: posts, pictures and a model in one folder, which appears whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.pocket.posts import SIZES, make_posts, write_posts
from mmkp_jax.pocket.world import make_world

VERSION = 1
"""Raised when the same seed comes to give other posts or another model."""

STAMP = "pocket.json"


def make_pocket(out: Path, seed: int = 0, sizes: Mapping[str, int] = SIZES) -> None:
    """Writes `posts/{train,valid,test}.jsonl`, `images/`, `needs.jsonl` and `model/` into `out`.

    A pocket of the same seed and sizes that is there already is left as it is. Everything is first written beside
    `out`, then renamed.

    Args:
        out: the folder, made where there is none.
        seed: decides all of it.
        sizes: posts of each split.

    Raises:
        InputError: `out` holds something else.
    """
    stamp = {"version": VERSION, "seed": seed, "sizes": dict(sizes)}
    if _is_made(out, stamp):
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.unfinished-", dir=out.parent))
    try:
        _write(unfinished, seed, sizes)
        (unfinished / STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
        unfinished.chmod(0o755)  # mkdtemp's are for one user only
        try:
            os.replace(unfinished, out)
        except OSError:
            if not _is_made(out, stamp):  # by another process, meanwhile
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(out: Path, seed: int, sizes: Mapping[str, int]) -> None:
    from mmkp_jax.pocket.model import write_model  # these take seconds to import
    from mmkp_jax.pocket.tokenizer import train_tokenizer

    splits = make_posts(make_world(seed), seed, sizes)
    write_posts(splits, seed, out)
    parts = [(post.text, "; ".join(post.keyphrases), post.cot or "") for post in splits["train"]]
    write_model(train_tokenizer(text for part in parts for text in part), seed, out / "model")


def _is_made(out: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether `out` is this pocket; an error if it is anything but an empty folder otherwise."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == stamp:
        return True
    what = "this is not a pocket" if found is None else "this pocket is of another seed, size or version"
    raise InputError(what, str(out), "give another folder, or remove it")


def make(root: Path = Path("runs/pocket")) -> None:
    """Makes pocket and its prepared dataset where they are not there yet; what a config's `make` calls."""
    from mmkp_jax.data.posts import read_jsonl
    from mmkp_jax.data.records import write_dataset

    make_pocket(root)
    dataset = root / "dataset"
    if dataset.exists():
        return
    splits = {split: read_jsonl(root / "posts" / f"{split}.jsonl") for split in SIZES}
    unfinished = Path(tempfile.mkdtemp(prefix=".dataset.unfinished-", dir=root))
    try:
        write_dataset(unfinished, splits, root / "images")
        try:
            os.replace(unfinished, dataset)
        except OSError:
            if not dataset.exists():  # made by another process, meanwhile
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
