"""Pages for human raters, one for each with images, and the key to all of them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmkp_jax.data.image_files import ImageError
from mmkp_jax.data.numbered import Numbered
from mmkp_jax.data.posts import Record
from mmkp_jax.errors import InputError
from mmkp_jax.judging.people import KEY
from mmkp_jax.judging.ranking import CRITERIA, LABELS, balanced_orders, format_keyphrases
from mmkp_jax.pages.render import render
from mmkp_jax.runtime.atomic import write_json, write_text
from mmkp_jax.runtime.escape import for_utf8
from mmkp_jax.runtime.json_files import read_object
from mmkp_jax.teacher.questions import data_url


def write_sheets(
    folder: Path,
    records: Numbered[Record],
    systems: Mapping[str, Sequence[Sequence[str]]],
    posts: Sequence[int],
    raters: int,
    image_edge: int,
) -> list[Path]:
    """Writes a page for each rater, with the lists in another balanced order, and the key to all pages.

    A page is one file that needs no network. It stores the ranks in the browser, and saves them as `ranks-NUMBER.json`,
    which `read_people` reads. The saved file names the study by a hash of the key and of all lists.

    Raises:
        InputError: an image cannot be used, the folder has another study's pages, or it cannot be written.
    """
    chosen = [records[number] for number in posts]
    images = [_image(record, image_edge) for record in chosen]
    rows, lists = (
        balanced_orders(len(systems)),
        [[format_keyphrases(each[n]) for n in posts] for each in systems.values()],
    )
    sheets = {
        str(sheet): {record.id: rows[(position * raters + sheet) % len(rows)] for position, record in enumerate(chosen)}
        for sheet in range(1, raters + 1)
    }
    key = {"systems": list(systems), "posts": [record.id for record in chosen], "sheets": sheets}
    study = hashlib.sha256(json.dumps([key, lists]).encode()).hexdigest()[:16]
    if (folder / KEY).exists() and read_object(folder / KEY, "name another --out").text("study") != study:
        raise InputError("it is the key of another study", str(folder / KEY), "name another --out")
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for sheet, orders in sheets.items():
            items = []
            for position, (record, image) in enumerate(zip(chosen, images, strict=True)):
                shown = [(label, lists[n][position]) for label, n in zip(LABELS, orders[record.id], strict=False)]
                items.append({"id": record.id, "text": record.text, "image": image, "lists": shown})
            files.append(folder / f"sheet-{sheet}.html")
            page = render("people/sheet.html.jinja", study=study, sheet=int(sheet), items=items, criteria=CRITERIA)
            write_text(files[-1], for_utf8(page))
        write_json(folder / KEY, json.loads(for_utf8(json.dumps({"study": study} | key))), indent=1)
    except OSError as error:
        raise InputError(f"this cannot be written ({error.strerror})", str(folder), "name another --out") from error
    return files


def _image(record: Record, edge: int) -> str | None:
    try:
        return data_url(record.image, edge) if record.image else None
    except ImageError as error:
        raise InputError(error.reason, f"the post {record.id!r}", "repair its image, or leave out the post") from None
