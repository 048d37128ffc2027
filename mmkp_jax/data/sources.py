"""From folders of raw posts to the posts of each split: the input of `prepare` and the TFDS builders."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkp_jax.data.import_formats import post_of
from mmkp_jax.data.posts import Post, Reject, read_cmkp, read_jsonl
from mmkp_jax.data.resample import overlap, resample
from mmkp_jax.data.tidying import Notes
from mmkp_jax.errors import InputError

SPLITS = ("train", "valid", "test")

PROVENANCE = "provenance.jsonl"
"""File of MMKP-V2: a line for each post of the new test split, in order, then one for each dropped post.

Images are read later: a post whose image is rejected is listed here too.
"""

REPEATS = "repeats.jsonl"
"""File of MMKP-V2: the valid posts whose text a training or test post has too, with their ids."""

_FILE = re.compile(r"(?P<split>\w+?)(-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?\.jsonl?(\.gz)?")


@dataclass
class Source:
    """The rows of each split, read lazily, once."""

    splits: dict[str, Iterable[Post | Reject]]
    notes: list[str] = field(default_factory=list)
    """Lines for the user."""
    extra_files: dict[str, Iterable[dict[str, Any]]] = field(default_factory=dict)
    """Rows of JSON Lines files to write next to the dataset, by name; read after the posts."""
    taken: Notes = field(default_factory=Notes)
    """What was accepted with a correction; final once all posts were read."""


def mmkp(raw: str | Path) -> Source:
    """The CMKP release as downloaded: those of `{train,valid,test}_src.txt` that exist.

    Raises:
        InputError: there is none.
    """
    found = [split for split in SPLITS if (Path(raw) / f"{split}_src.txt").is_file()]
    if not found:
        raise InputError("the folder holds no posts", str(raw), "give the folder with train_src.txt and its like")
    missing = [f"{split}_src.txt" for split in SPLITS if split not in found]
    notes = [f"missing, so not in the dataset: {', '.join(missing)}"] if missing else []
    return Source({split: read_cmkp(raw, split) for split in found}, notes)


def mmkp_v2(source: Source, target_overlap: float, seed: int) -> Source:
    """MMKP resampled by `resample`; valid is unchanged. Ids are unchanged too, and show where a post was.

    Raises:
        InputError: there are no training or test posts, or `resample` refuses them.
    """
    for split in ("train", "test"):
        if split not in source.splits:
            raise InputError(f"there is no {split}_src.txt", "mmkp_v2", "add it: both train and test are resampled")
    rows = {split: list(rows) for split, rows in source.splits.items()}
    good = {split: [row for row in rows[split] if isinstance(row, Post)] for split in rows}
    bad = {split: [row for row in rows[split] if isinstance(row, Reject)] for split in rows}
    train, test, provenance = resample(good["train"], good["test"], target_overlap, seed)
    moved = len(good["train"]) - len(train)
    notes = [
        *source.notes,
        f"train: of {len(good['train']):,} posts {len(train):,} stay and {moved:,} go to test",
        f"test: of {len(good['test']):,} posts and {moved:,} from train {len(test):,} stay and "
        f"{len(provenance.dropped):,} are dropped; overlap {overlap(train, test):.2%}",
        f"these figures and {PROVENANCE} count posts as read: those with a bad image are rejected later",
    ]
    origins = [
        {"id": post.id, "split": "test", "origin": origin} for post, origin in zip(test, provenance.test, strict=True)
    ]
    origins += [
        {"id": each.post.id, "split": None, "origin": each.origin, "keyphrase": each.keyphrase}
        for each in provenance.dropped
    ]
    extra_files: dict[str, Iterable[dict[str, Any]]] = source.extra_files | {PROVENANCE: origins}
    splits: dict[str, Iterable[Post | Reject]] = {"train": [*train, *bad["train"]]}
    if "valid" in rows:
        splits["valid"] = rows["valid"]
        extra_files[REPEATS] = repeats = _repeats(good["valid"], {"train": train, "test": test})
        notes.append(f"valid: the text of {len(repeats):,} posts is in train or test too; see {REPEATS}")
    return Source(splits | {"test": [*test, *bad["test"]]}, notes, extra_files, source.taken)


def _repeats(valid: Sequence[Post], others: Mapping[str, Sequence[Post]]) -> list[dict[str, Any]]:
    """A row for each post whose text another split has: its id, and the ids there."""
    wanted = {post.text for post in valid}
    by_text: dict[str, dict[str, list[str]]] = {}
    for split, found in others.items():
        for post in found:
            if post.text in wanted:
                by_text.setdefault(post.text, {}).setdefault(split, []).append(post.id)
    return [{"id": post.id} | by_text[post.text] for post in valid if post.text in by_text]


def keyphrase_posts(raw: str | Path) -> Source:
    """Anyone's own posts: a split is `NAME.jsonl` or `.json`, or shards `NAME-00000-of-00004.jsonl`; each may be `.gz`.

    Rows are in this project's own form, or in one of those of `import_formats`.

    Raises:
        InputError: there is no such file, a shard is missing, or a name gives no split.
    """
    files = sorted(file for file in Path(raw).glob("*.json*") if file.is_file())
    shards: dict[str, list[tuple[Path, re.Match[str]]]] = {}
    for file in files:
        name = _FILE.fullmatch(file.name)
        if not name or name["split"] == "all":  # TFDS's name for all splits together
            hint = "name it train.jsonl or train-00000-of-00004.jsonl, or take it out of the folder"
            raise InputError("its name gives no split", str(file), hint)
        shards.setdefault(name["split"], []).append((file, name))
    if not shards:
        raise InputError("the folder holds no posts", str(raw), "give the folder with train.jsonl and its like")
    for split, named in shards.items():
        _check_shards(split, named, raw)
    order = sorted(shards, key=lambda split: (SPLITS.index(split) if split in SPLITS else len(SPLITS), split))
    taken = Notes()
    files = {split: [file for file, _ in shards[split]] for split in order}
    splits = {split: read_jsonl(*files[split], post_of=post_of, notes=taken) for split in order}
    return Source(splits, taken=taken)


def _check_shards(split: str, named: list[tuple[Path, re.Match[str]]], raw: str | Path) -> None:
    if len(named) == 1 and not named[0][1]["shard"]:
        return
    totals = {name["shards"] for _, name in named}
    numbers = [int(name["shard"] or -1) for _, name in named]
    if len(totals) > 1 or None in totals or len(set(numbers)) < len(numbers):
        files = ", ".join(file.name for file, _ in named)
        raise InputError(
            f"the split {split!r} is given twice: {files}", str(raw), "leave one file, or one set of shards"
        )
    wanted = range(int(totals.pop()))
    if missing := sorted(set(wanted) - set(numbers)):
        lacks = f"{len(missing)} of {len(wanted)} shards, the first number {missing[0]:05d}"
        raise InputError(f"the split {split!r} lacks {lacks}", str(raw), "add what is missing; shards count from 0")
