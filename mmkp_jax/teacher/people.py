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
from mmkp_jax.teacher.questions import Records, data_url
from mmkp_jax.teacher.ranking import CRITERIA, LABELS, balanced_orders, listed

KEY = "key.json"
"""Which list is whose, beside the pages; not for raters."""


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
    if (folder / KEY).exists() and _json(folder / KEY, "name another --out").get("study") != study:
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
            files[-1].write_text(page, encoding="utf-8")
        (folder / KEY).write_text(json.dumps({"study": study} | told, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"this cannot be written ({error.strerror})", str(folder), "name another --out") from error
    return files


def read_people(folder: Path, files: Sequence[Path]) -> tuple[list[str], list[str], np.ndarray]:
    """What raters saved: the systems, the posts' ids, and [P, O, C, N] ranks as they were chosen.

    Raises:
        InputError: a file is none of these pages', one that is not filled in, or of a page that another file is of.
    """
    told = _json(folder / KEY, "write the sheets first, with --people")
    ids, systems = told["posts"], told["systems"]
    written_POCN = np.full((len(ids), len(files), len(CRITERIA), len(systems)), np.nan)
    seen: dict[str, Path] = {}
    for rater, file in enumerate(files):
        saved = _json(file, "give what a page saved")
        sheet, ranks = str(saved.get("sheet")), saved.get("ranks")
        if saved.get("study") != told.get("study") or sheet not in told["sheets"] or not isinstance(ranks, dict):
            raise InputError("it is not of these sheets", str(file), "give what a page saved")
        if sheet in seen:
            raise InputError(f"it is of the same sheet as {seen[sheet]}", str(file), "give each rater a sheet")
        seen[sheet] = file
        for place, post in enumerate(ids):
            for c, criterion in enumerate(CRITERIA):
                for label, n in zip(LABELS, told["sheets"][sheet][post], strict=False):
                    try:
                        rank = int(ranks[post][criterion][label])
                    except (KeyError, TypeError, ValueError):
                        what = f"it has no {criterion} of list {label} of the post {post!r}"
                        raise InputError(what, str(file), "let the rater fill in every box") from None
                    if not 1 <= rank <= len(systems):
                        raise InputError(f"{rank} is no rank of {len(systems)}", str(file), "let the rater mend it")
                    written_POCN[place, rater, c, n] = rank
    return systems, ids, written_POCN


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


def _json(file: Path, mend: str) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"it cannot be read ({error.strerror})", str(file), mend) from None
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise InputError("it is not JSON of a page", str(file), mend)
    return told
