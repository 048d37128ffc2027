"""The same ranking by people: a page for each rater, with images, and what comes back from them."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mmkp_jax.data.image_files import ImageError
from mmkp_jax.data.posts import Record
from mmkp_jax.errors import InputError
from mmkp_jax.runtime.atomic import write_json, write_text
from mmkp_jax.runtime.escape import for_utf8
from mmkp_jax.runtime.json_files import Fields, is_integer, read_object
from mmkp_jax.teacher.questions import Records, data_url
from mmkp_jax.teacher.ranking import CRITERIA, LABELS, balanced_orders, listed

KEY = "key.json"
"""Which list is whose, next to the pages; not for raters."""
KEY_HINT = "restore it; or write the sheets first, with --people"


def choose(posts: int, count: int, seed: int = 0) -> list[int]:
    """Numbers of posts for people, in order; the same seed chooses the same."""
    return sorted(random.Random(seed).sample(range(posts), count))


def write_sheets(
    folder: Path,
    records: Records,
    systems: Mapping[str, Sequence[Sequence[str]]],
    posts: Sequence[int],
    raters: int,
    image_edge: int,
) -> list[Path]:
    """Writes a page for each rater, in which the lists stand in another balanced order, and the key to all of them.

    A page is one file that needs no network. It keeps what was chosen in the browser, and saves it as
    `ranks-NUMBER.json`, which `read_people` takes. What it saves names the study: a hash of the key and of all lists.

    Raises:
        InputError: an image cannot be used, another study's pages are there, or nothing can be written there.
    """
    chosen = [records[number] for number in posts]
    images = [_image(record, image_edge) for record in chosen]
    rows, lists = balanced_orders(len(systems)), [[listed(each[n]) for n in posts] for each in systems.values()]
    sheets = {
        str(sheet): {record.id: rows[(place * raters + sheet) % len(rows)] for place, record in enumerate(chosen)}
        for sheet in range(1, raters + 1)
    }
    told = {"systems": list(systems), "posts": [record.id for record in chosen], "sheets": sheets}
    study = hashlib.sha256(json.dumps([told, lists]).encode()).hexdigest()[:16]
    if (folder / KEY).exists() and read_object(folder / KEY, "name another --out").text("study") != study:
        raise InputError("it is the key to another study's pages", str(folder / KEY), "name another --out")
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for sheet, orders in sheets.items():
            items = []
            for place, (record, image) in enumerate(zip(chosen, images, strict=True)):
                shown = [(label, lists[n][place]) for label, n in zip(LABELS, orders[record.id], strict=False)]
                items.append({"id": record.id, "text": record.text, "image": image, "lists": shown})
            files.append(folder / f"sheet-{sheet}.html")
            page = _page(study=study, sheet=int(sheet), items=items, criteria=CRITERIA)
            write_text(files[-1], for_utf8(page))
        write_json(folder / KEY, json.loads(for_utf8(json.dumps({"study": study} | told))), indent=1)
    except OSError as error:
        raise InputError(f"this cannot be written ({error.strerror})", str(folder), "name another --out") from error
    return files


def read_people(folder: Path, files: Sequence[Path]) -> tuple[list[str], list[str], np.ndarray]:
    """What raters saved: the systems, the posts' ids, and [P, O, C, N] ranks as they were chosen.

    Raises:
        InputError: a file is none of these pages', one that is not filled in, or of a page that another file is of.
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
            raise InputError("it is not of these sheets", str(file), "give what a page saved")
        if sheet in seen:
            raise InputError(f"it is of the same sheet as {seen[sheet]}", str(file), "give each rater a sheet")
        seen[sheet] = file
        for place, post in enumerate(ids):
            order = _order(sheets.object(sheet), post, len(systems))
            for c, criterion in enumerate(CRITERIA):
                for label, n in zip(LABELS, order, strict=False):
                    written_POCN[place, rater, c, n] = _rank(ranks, post, criterion, label, len(systems))
    return systems, ids, written_POCN


def _order(sheet: Fields, post: str, systems: int) -> list[int]:
    """The systems whose lists a sheet shows of a post, from A on."""
    order = sheet.content.get(post)
    if not (isinstance(order, list) and all(map(is_integer, order)) and sorted(order) == list(range(systems))):
        sheet.refuse(post, f"an order of {systems} systems")
    return order


def _rank(ranks: Fields, post: str, criterion: str, label: str, systems: int) -> int:
    """The rank that a rater chose; a page saves it as text."""
    rank: Any = ranks.content
    for name in (post, criterion, label):
        rank = rank.get(name) if isinstance(rank, dict) else None
    if not is_integer(rank) and not (isinstance(rank, str) and rank.isascii() and rank.isdecimal() and len(rank) < 10):
        what = f"it has no {criterion} of list {label} of the post {post!r}"
        raise InputError(what, ranks.where, "let the rater fill in every box")
    if not 1 <= int(rank) <= systems:
        raise InputError(f"{int(rank)} is no rank of {systems}", ranks.where, "let the rater correct it")
    return int(rank)


def _image(record: Record, edge: int) -> str | None:
    try:
        return data_url(record.image, edge) if record.image else None
    except ImageError as error:
        raise InputError(error.reason, f"the post {record.id!r}", "mend its image, or leave it out") from None


def _page(**values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("sheet.html.jinja").render(values)
