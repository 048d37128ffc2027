"""Makes pocket: posts, images and the pretrained model in one folder, written atomically."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.hf.tensors import WEIGHTS
from mmkp_jax.pocket.corpus import questions
from mmkp_jax.pocket.posts import SEEN, SIZES, make_posts, write_lines, write_posts
from mmkp_jax.pocket.world import make_facts
from mmkp_jax.runtime.aside import put_aside
from mmkp_jax.runtime.atomic import making_folder, write_json
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.json_files import is_integer

VERSION = 2
"""Increased when the same seed gives other posts, or the pretrained weights are others."""

POCKET = Path("runs/pocket")
"""The folder that the default experiment makes."""

STAMP = "pocket.json"
"""The file with the version, seed and sizes of a pocket."""

FACTS = "facts.jsonl"
"""The file with a question for each fact of the world."""

PRETRAINED = Path(__file__).parent / "pretrained"
"""The Hugging Face folder that `benchmarks/pocket_pretraining.py` writes."""


def make_pocket(out: Path, seed: int = 0, sizes: Mapping[str, int] = SIZES) -> None:
    """Writes `posts/{train,valid,test}.jsonl`, `images/`, `needs.jsonl`, `facts.jsonl` and `model/` into `out`.

    `facts.jsonl` asks for each fact, `model/` is the pretrained one. An existing pocket with the same seed and sizes is
    kept; one of an older version is put aside, with a line on stderr.

    Args:
        out: the folder, created if it does not exist.
        seed: the seed of posts and images, and of which tags are seen; facts and model are the same for any.
        sizes: posts of each split, without those that replay the corpus (`posts.REPLAYED`).

    Raises:
        InputError: `out` holds something else, or there are no pretrained weights.
    """
    stamp = {"version": VERSION, "seed": seed, "sizes": dict(sizes)}
    make_once(out, stamp, lambda unfinished: _write(unfinished, seed, sizes))


def make_once(out: Path, stamp: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Makes a folder with a stamp atomically; one with the same stamp is kept, one of an older version put aside.

    Args:
        stamp: its content; of an older version is what has a smaller `version`, its own or its pocket's.
        write: writes everything but the stamp into the folder it is given.

    Raises:
        InputError: `out` holds something else.
    """
    old = _is_older(out, stamp)
    if not old and _is_made(out, stamp):
        return
    with making_folder(out, lambda: _is_made(out, stamp)) as unfinished:
        write(unfinished)
        write_json(unfinished / STAMP, stamp, indent=None)
        if old and (aside := put_aside(out, _version(_stamp_of(out)), lambda: _is_older(out, stamp))):
            line = f"{out}: it is of an older version, so a new one is made; the old one is now {aside}"
            print(for_terminal(line), file=sys.stderr)


def _write(out: Path, seed: int, sizes: Mapping[str, int]) -> None:
    if not (PRETRAINED / WEIGHTS).is_file():
        hint = "make them in a checkout: python -m benchmarks.pocket_pretraining"
        raise InputError("there are no pretrained weights", str(PRETRAINED), hint)
    facts = make_facts(seed, SEEN)
    write_posts(make_posts(facts, seed, sizes), seed, out)
    write_lines(out / FACTS, [post.record() for post in questions(facts.chains)])
    (out / "model").mkdir()
    for file in PRETRAINED.iterdir():  # writable, where the package is not
        shutil.copyfile(file, out / "model" / file.name)


def _is_made(out: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether `out` is this pocket; raises `InputError` if it holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found = _stamp_of(out)
    if found == stamp:
        return True
    what = "this is not a pocket" if found is None else "it was made with another seed, size or version"
    raise InputError(what, str(out), "give another folder, or remove it")


def _stamp_of(out: Path) -> Mapping[str, Any] | None:
    """A folder's stamp; None if it has none."""
    try:
        found = json.loads((out / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_older(out: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether a version of a folder's stamp, its own or its pocket's, is smaller, and none larger."""
    found = _stamp_of(out)
    before, now = ([_version(each), _version((each or {}).get("pocket"))] for each in (found, stamp))
    return before[0] > 0 and before != now and all(a <= b for a, b in zip(before, now, strict=True))


def _version(stamp: Any) -> int:
    """The version that a stamp names; 0 for none."""
    version = stamp.get("version") if isinstance(stamp, dict) else None
    return version if is_integer(version) else 0


def make(root: Path = POCKET, seed: int = 0) -> None:
    """Makes pocket and its prepared dataset unless they exist; a config's `make` calls this."""
    make_pocket(root, seed)
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
