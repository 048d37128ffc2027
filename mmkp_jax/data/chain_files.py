"""Chains of thought from a file of their own, joined to their posts by id."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from mmkp_jax.data import fields
from mmkp_jax.data.chains import chain_of
from mmkp_jax.data.fields import BadLine
from mmkp_jax.data.json_rows import objects_of
from mmkp_jax.data.posts import Post, Reject
from mmkp_jax.data.sources import Source
from mmkp_jax.errors import InputError

OnBadRow = Literal["drop", "error"]

COT_REJECTS = "cot_rejects.jsonl"
"""File next to the dataset: lines of the file of chains that were joined to no post, each with its reason."""


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
        """Lines without a chain, with a further one for an id, or with one that contradicts its post's keyphrases."""
        self.replaced = 0
        """Number of posts whose own chain was replaced."""
        self.unmatched = 0
        """Number of chains whose id belongs to no readable post."""
        self.without: Counter[str] = Counter()
        """Posts without a chain by split, as read, before any is rejected for its image."""
        self._chain: dict[str, tuple[str, int]] = {}
        self._posts: set[str] = set()
        self._rejected: set[str | None] = set()
        self._unfit: dict[str, Reject] = {}
        for number, row in objects_of(file):
            try:
                self._add(row, number)
            except BadLine as bad:
                self.rejects.append(Reject(bad.id, self.file, number, bad.reason, bad.hint))

        if not self._chain:
            why = f"; line {self.rejects[0].line}: {self.rejects[0].reason}" if self.rejects else ""
            hint = 'give JSON Lines of {"id", "cot"}'
            raise InputError(f"none of its {len(self.rejects):,} lines holds a chain of thought{why}", self.file, hint)

    def _add(self, row: dict[str, Any] | BadLine, number: int) -> None:
        if isinstance(row, BadLine):
            raise row
        post_id = fields.id_text(fields.field(row, "id", None, str, int))
        cot = fields.field(row, "cot", post_id, str)
        fields.check_characters(post_id, cot)
        if not chain_of(cot, None, post_id):
            raise BadLine("the chain of thought is empty", "write it, or leave the line out", post_id)
        if (first := self._chain.setdefault(post_id, (cot, number))[1]) != number:
            raise BadLine(f"the id {post_id!r} is in line {first} too", "keep one chain for each post", post_id)

    def join(self, source: Source, *, on_bad_row: OnBadRow = "drop") -> Source:
        """The source with its posts' chains from the file, which replace those that posts have already.

        A chain whose `<answer>` is not its post's keyphrases is rejected. `COT_REJECTS`, next to the dataset, lists the
        lines of the file that were joined to no post.

        Args:
            on_bad_row: `error` raises an InputError for the first line that is rejected.
        """
        if self.rejects and on_bad_row == "error":
            raise self.rejects[0].as_error()
        splits = {split: self._join(split, rows, on_bad_row) for split, rows in source.splits.items()}
        return replace(source, splits=splits, extra_files=source.extra_files | {COT_REJECTS: self._unused()})

    def _join(self, split: str, rows: Iterable[Post | Reject], on_bad_row: OnBadRow) -> Iterator[Post | Reject]:
        for row in rows:
            if isinstance(row, Reject):
                self._rejected.add(row.id)
            elif cot := self._fitting(row, on_bad_row):
                self._posts.add(row.id)
                self.replaced += row.cot is not None
                row = replace(row, cot=cot)
            elif row.cot is None:
                self.without[split] += 1
            yield row

    def _fitting(self, post: Post, on_bad_row: OnBadRow) -> str | None:
        """The post's chain from the file, without its tags; None where there is none, or it is rejected."""
        if post.id not in self._chain:
            return None
        cot, line = self._chain[post.id]
        try:
            return chain_of(cot, post.keyphrases, post.id)
        except BadLine as bad:
            self._unfit[post.id] = reject = Reject(post.id, self.file, line, bad.reason, bad.hint)
            if on_bad_row == "error":
                raise reject.as_error() from None
            return None

    def _unused(self) -> Iterator[dict[str, Any]]:
        for post_id, (_, line) in self._chain.items():
            if post_id in self._posts or post_id in self._unfit:
                continue
            self.unmatched += 1
            reason = "its post is a reject" if post_id in self._rejected else "no post has this id"
            yield asdict(Reject(post_id, self.file, line, reason, "fix the id or the post, or leave the line out"))
        self.rejects += [each for post_id, each in self._unfit.items() if post_id not in self._posts]
        yield from map(asdict, self.rejects)

    @property
    def joined(self) -> int:
        """Number of posts with a chain from the file; final once all posts were read."""
        return len(self._posts)

    def summary(self) -> str:
        """One line on what became of the chains; final once posts and `extra_files` were read."""
        lines = len(self._posts) + self.unmatched + len(self.rejects)
        without = ", ".join(f"{split} {count:,}" for split, count in self.without.items()) or "none"
        return (
            f"{self.file}: {lines:,} lines = {len(self._posts):,} joined to posts as read "
            f"({self.replaced:,} replaced another) + {self.unmatched:,} without a post + "
            f"{len(self.rejects):,} bad or duplicate; see {COT_REJECTS}; posts read without a chain: {without}"
        )
