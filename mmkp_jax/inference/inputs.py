"""The posts that `predict` reads: those of a prepared dataset or of a file, or a single one."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmkp_jax.data.numbered import each_of, records_of
from mmkp_jax.data.posts import Post, Record, Reject, own_post, read_cmkp, read_jsonl
from mmkp_jax.data.tidying import Notes
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.files import CMKP_ENDING


def posts_of(flags: argparse.Namespace) -> tuple[list[str], Callable[[int], Record | Reject]]:
    """The posts' ids, and a function that reads each by number."""
    from mmkp_jax.data.records import open_split, rejected_posts
    from mmkp_jax.data.shards import record_of

    if flags.data:
        split, rejected = open_split(flags.data, flags.split), rejected_posts(flags.data, flags.split)
        refused = [Reject(post.id, post.file, post.line, *REFUSED, post) for post in rejected]
        ids = [record.id for record in each_of(split)] + [post.id for post in rejected]
        return ids, lambda number: split[number] if number < len(split) else refused[number - len(split)]
    if flags.posts:
        posts = _listed(flags.posts)
        if flags.images is None and (shown := next((each for each in posts if getattr(each, "image", None)), None)):
            raise InputError(f"the post {shown.id!r} has an image", str(flags.posts), "give --images=DIR")
        if flags.images and not flags.images.is_dir():
            raise InputError("there is no such folder of images", str(flags.images), "give the folder that holds them")
        if flags.base_url:  # errors are reported before any money is spent
            for bad in posts:
                if isinstance(bad, Reject):
                    raise bad.as_error()
            return [post.id for post in posts], records_of(posts, flags.images).read
        return [post.id for post in posts], lambda number: record_of(posts[number], flags.images or Path())
    from mmkp_jax.inference.predictor import read_post

    post = read_post("text", flags.text, flags.image)
    return [post.id], lambda _: post


REFUSED = "it could not be used when the dataset was prepared", "see its rejects.jsonl"
"""Reason and hint of a post that prepare rejected."""


def _listed(file: Path) -> list[Post | Reject]:
    """A file's posts, and rejects for lines that have an id but are not a post; keyphrases are optional."""
    if file.name.endswith(CMKP_ENDING):
        rows = read_cmkp(file.parent, file.name.removesuffix(CMKP_ENDING))
    elif file.suffix == ".jsonl":
        rows = read_jsonl(file, post_of=_post_of)
    else:
        what, hint = "its name does not say how posts are laid out", f"name it .jsonl or {{split}}{CMKP_ENDING}"
        raise InputError(what, str(file), hint)
    listed: dict[str, Post | Reject] = {}
    for row in rows:
        if isinstance(row, Reject) and (row.id is None or row.id in listed):
            raise row.as_error()
        listed[row.id] = row
    if not listed:
        raise InputError("it has no posts", str(file), "give a file with one post a line")
    return list(listed.values())


def _post_of(row: dict[str, Any], file: str, number: int, notes: Notes | None = None) -> Post:
    row = row | {"cot": None}  # nothing is predicted from it
    if row.get("keyphrases"):
        return own_post(row, file, number, notes)
    return dataclasses.replace(own_post(row | {"keyphrases": ["unknown"]}, file, number, notes), keyphrases=())
