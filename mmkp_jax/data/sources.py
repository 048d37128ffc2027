"""From folders of raw posts to the posts of each split: what `prepare` and the TFDS builders are given."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmkp_jax.data import posts
from mmkp_jax.data.foreign import post_of
from mmkp_jax.data.posts import BadLine, Post, Reject, read_cmkp, read_jsonl
from mmkp_jax.data.resample import overlap, resample
from mmkp_jax.errors import InputError

SPLITS = ("train", "valid", "test")

PROVENANCE = "provenance.jsonl"
"""Of MMKP-V2: a line for each post of the new test split, in its order, then one for each post that was dropped.

Images are read later: a post whose image turns out bad is in here too, and a reject.
"""

COT_REJECTS = "cot_rejects.jsonl"
"""Of chains of thought from a file: its lines that gave no post its chain, each with the reason."""

REPEATS = "repeats.jsonl"
"""Of MMKP-V2: the valid posts whose text a training or test post has too, with their ids."""

_FILE = re.compile(r"(?P<split>\w+?)(-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?\.jsonl?(\.gz)?")


@dataclass
class Source:
    """The rows of each split, which are read as they are gone through, once."""

    splits: dict[str, Iterable[Post | Reject]]
    notes: list[str] = field(default_factory=list)
    """What a user should know, a line each."""
    beside: dict[str, Iterable[dict[str, Any]]] = field(default_factory=dict)
    """Rows of JSON Lines files that belong beside the dataset, by name; gone through after the posts."""


def mmkp(raw: str | Path) -> Source:
    """The CMKP release as downloaded: `{train,valid,test}_src.txt`, as many of them as are there.

    Raises:
        InputError: none is there.
    """
    found = [split for split in SPLITS if (Path(raw) / f"{split}_src.txt").is_file()]
    if not found:
        raise InputError("the folder holds no posts", str(raw), "give the folder with train_src.txt and its like")
    missing = [f"{split}_src.txt" for split in SPLITS if split not in found]
    notes = [f"not there, and so no split of the dataset: {', '.join(missing)}"] if missing else []
    return Source({split: read_cmkp(raw, split) for split in found}, notes)


def mmkp_v2(source: Source, target_overlap: float, seed: int) -> Source:
    """MMKP resampled by `resample`; valid stays as it is. Ids stay too, and tell where a post lay.

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
        f"these figures and {PROVENANCE} are of posts: those whose image turns out bad are rejects after this",
    ]
    told = [
        {"id": post.id, "split": "test", "origin": origin} for post, origin in zip(test, provenance.test, strict=True)
    ]
    told += [
        {"id": each.post.id, "split": None, "origin": each.origin, "keyphrase": each.keyphrase}
        for each in provenance.dropped
    ]
    beside: dict[str, Iterable[dict[str, Any]]] = source.beside | {PROVENANCE: told}
    splits: dict[str, Iterable[Post | Reject]] = {"train": [*train, *bad["train"]]}
    if "valid" in rows:
        splits["valid"] = rows["valid"]
        beside[REPEATS] = repeats = _repeats(good["valid"], {"train": train, "test": test})
        notes.append(f"valid: the text of {len(repeats):,} posts is in train or test too; see {REPEATS}")
    return Source(splits | {"test": [*test, *bad["test"]]}, notes, beside)


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

    Rows are in this project's own form, or in one of `foreign`.

    Raises:
        InputError: there is no such file, a shard is missing, or a name tells no split.
    """
    files = sorted(file for file in Path(raw).glob("*.json*") if file.is_file())
    shards: dict[str, list[tuple[Path, re.Match[str]]]] = {}
    for file in files:
        name = _FILE.fullmatch(file.name)
        if not name or name["split"] == "all":  # TFDS's name for all splits together
            mend = "name it train.jsonl or train-00000-of-00004.jsonl, or take it out of the folder"
            raise InputError("its name tells no split", str(file), mend)
        shards.setdefault(name["split"], []).append((file, name))
    if not shards:
        raise InputError("the folder holds no posts", str(raw), "give the folder with train.jsonl and its like")
    for split, named in shards.items():
        _check_shards(split, named, raw)
    order = sorted(shards, key=lambda split: (SPLITS.index(split) if split in SPLITS else len(SPLITS), split))
    return Source({split: read_jsonl(*(file for file, _ in shards[split]), post_of=post_of) for split in order})


def _check_shards(split: str, named: list[tuple[Path, re.Match[str]]], raw: str | Path) -> None:
    if len(named) == 1 and not named[0][1]["shard"]:
        return
    totals = {name["shards"] for _, name in named}
    numbers = [int(name["shard"] or -1) for _, name in named]
    if len(totals) > 1 or None in totals or len(set(numbers)) < len(numbers):
        files = ", ".join(file.name for file, _ in named)
        raise InputError(
            f"the split {split!r} is there twice: {files}", str(raw), "leave one file, or one set of shards"
        )
    wanted = range(int(totals.pop()))
    if missing := sorted(set(wanted) - set(numbers)):
        lacks = f"{len(missing)} of {len(wanted)} shards, the first number {missing[0]:05d}"
        raise InputError(f"the split {split!r} lacks {lacks}", str(raw), "add what is missing; shards count from 0")


class Chains:
    """Chains of thought from a file of `{"id", "cot"}`, and which of them found their post."""

    def __init__(self, file: str | Path):
        """Reads the file.

        Raises:
            InputError: it cannot be read.
        """
        if not Path(file).is_file():
            raise InputError("there is no such file of chains of thought", str(file), "give JSON Lines of id and cot")
        self.file = str(file)
        self.rejects: list[Reject] = []
        """Lines that hold no chain, or one for an id that has one already: the first counts."""
        self.replaced = 0
        """Posts that had another chain before."""
        self.unmatched = 0
        """Chains whose id no post has that could be read."""
        self.without: Counter[str] = Counter()
        """Posts that have no chain, of each split; as read, before any is rejected for its image."""
        self._chain: dict[str, tuple[str, int]] = {}
        self._posts: set[str] = set()
        self._rejected: set[str | None] = set()
        for number, row in posts.objects_of(file):
            try:
                self._add(row, number)
            except BadLine as bad:
                self.rejects.append(Reject(bad.id, self.file, number, bad.reason, bad.mend))

    def _add(self, row: dict[str, Any] | BadLine, number: int) -> None:
        if isinstance(row, BadLine):
            raise row
        post_id = posts.field(row, "id", None, str)
        cot = posts.field(row, "cot", post_id, str).strip()
        posts.check_characters(post_id, cot)
        if not cot:
            raise BadLine("the chain of thought is empty", "write it, or leave the line out", post_id)
        if (first := self._chain.setdefault(post_id, (cot, number))[1]) != number:
            raise BadLine(f"the id {post_id!r} stands in line {first} too", "keep one chain for each post", post_id)

    def join(self, source: Source) -> Source:
        """The source with its posts' chains from the file, which take the place of those that posts have already.

        `COT_REJECTS`, beside the dataset, lists the lines of the file that gave no post its chain.
        """
        splits = {split: self._join(split, rows) for split, rows in source.splits.items()}
        return replace(source, splits=splits, beside=source.beside | {COT_REJECTS: self._unused()})

    def _join(self, split: str, rows: Iterable[Post | Reject]) -> Iterator[Post | Reject]:
        for row in rows:
            if isinstance(row, Reject):
                self._rejected.add(row.id)
            elif row.id in self._chain:
                self._posts.add(row.id)
                self.replaced += row.cot is not None
                row = replace(row, cot=self._chain[row.id][0])
            elif row.cot is None:
                self.without[split] += 1
            yield row

    def _unused(self) -> Iterator[dict[str, Any]]:
        for post_id, (_, line) in self._chain.items():
            if post_id in self._posts:
                continue
            self.unmatched += 1
            reason = "its post is a reject" if post_id in self._rejected else "no post has this id"
            yield asdict(Reject(post_id, self.file, line, reason, "mend the id or the post, or leave the line out"))
        yield from map(asdict, self.rejects)

    def summary(self) -> str:
        """One line on what became of the chains; complete when posts and `beside` were gone through."""
        lines = len(self._chain) + len(self.rejects)
        without = ", ".join(f"{split} {count:,}" for split, count in self.without.items()) or "none"
        return (
            f"{self.file}: {lines:,} lines = {len(self._posts):,} joined to posts as read "
            f"({self.replaced:,} in the place of another) + {self.unmatched:,} without a post + "
            f"{len(self.rejects):,} bad or double; see {COT_REJECTS}; posts read without a chain: {without}"
        )
