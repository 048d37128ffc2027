"""Ranking by people: the posts that they rank, and the ranks that their pages save."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkp_jax.errors import InputError
from mmkp_jax.judging.ranking import CRITERIA, LABELS
from mmkp_jax.runtime.json_files import Fields, is_integer, read_object

KEY = "key.json"
"""File next to the pages that says which system each list is from; not for raters."""
KEY_HINT = "restore it; or write the sheets first, with --people"


def sample_posts(posts: int, count: int, seed: int = 0) -> list[int]:
    """Samples numbers of posts for people, in order; the same seed samples the same posts."""
    return sorted(random.Random(seed).sample(range(posts), count))


def read_people(folder: Path, files: Sequence[Path]) -> tuple[list[str], list[str], np.ndarray]:
    """Reads what raters saved: the systems, the posts' ids, and the ranks [P, O, C, N] as given.

    Raises:
        InputError: a file is not from these pages, not filled in, or from the same page as another file.
    """
    key = read_object(folder / KEY, KEY_HINT)
    study, ids, systems, sheets = key.text("study"), key.texts("posts"), key.texts("systems"), key.object("sheets")
    if len(set(ids)) < len(ids) or not 2 <= len(systems) <= len(LABELS):
        key.refuse("posts" if len(set(ids)) < len(ids) else "systems", "a list of the right length without repeats")
    written_POCN = np.full((len(ids), len(files), len(CRITERIA), len(systems)), np.nan)
    seen: dict[str, Path] = {}
    for rater, file in enumerate(files):
        saved = read_object(file, "give what a page saved")
        sheet, ranks = str(saved.content.get("sheet"))[:20], saved.object("ranks")
        if saved.content.get("study") != study or sheet not in sheets.content:
            raise InputError("it is not from these sheets", str(file), "give what a page saved")
        if sheet in seen:
            raise InputError(f"it is from the same sheet as {seen[sheet]}", str(file), "give each rater a sheet")
        seen[sheet] = file
        for place, post in enumerate(ids):
            order = _order(sheets.object(sheet), post, len(systems))
            for c, criterion in enumerate(CRITERIA):
                for label, n in zip(LABELS, order, strict=False):
                    written_POCN[place, rater, c, n] = _rank(ranks, post, criterion, label, len(systems))
    return systems, ids, written_POCN


def _order(sheet: Fields, post: str, systems: int) -> list[int]:
    """Systems in the order of the lists that a sheet shows for a post, from A on."""
    order = sheet.content.get(post)
    if not (isinstance(order, list) and all(map(is_integer, order)) and sorted(order) == list(range(systems))):
        sheet.refuse(post, f"an order of {systems} systems")
    return order


def _rank(ranks: Fields, post: str, criterion: str, label: str, systems: int) -> int:
    """The rank that a rater gave; a page saves it as text."""
    rank: Any = ranks.content
    for name in (post, criterion, label):
        rank = rank.get(name) if isinstance(rank, dict) else None
    if not is_integer(rank) and not (isinstance(rank, str) and rank.isascii() and rank.isdecimal() and len(rank) < 10):
        what = f"it has no {criterion} of list {label} of the post {post!r}"
        raise InputError(what, ranks.where, "let the rater fill in every box")
    if not 1 <= int(rank) <= systems:
        raise InputError(f"{int(rank)} is no rank of {systems}", ranks.where, "let the rater correct it")
    return int(rank)
