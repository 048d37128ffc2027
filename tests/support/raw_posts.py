"""Small raw folders for tests of what prepares them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmkp_jax.data.records import open_split
from tests.data.test_images import random_image, saved


def write_images(folder: Path, count: int = 20) -> Path:
    """`0.jpg`, `1.jpg`, …"""
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i}.jpg").write_bytes(saved(random_image(40 + i, 30, seed=i), "JPEG"))
    return folder


def write_cmkp(raw: Path, **splits: Sequence[str]) -> Path:
    """`{split}_src.txt` with a post for each string of keyphrases; its image is `{number % 20}.jpg`."""
    raw.mkdir(exist_ok=True)
    for split, keyphrases in splits.items():
        lines = [f"{split} {i}<sep>{each}<sep>https://h/m/{i % 20}.jpg\n" for i, each in enumerate(keyphrases)]
        (raw / f"{split}_src.txt").write_text("".join(lines), encoding="utf-8")
    return raw


def json_post(post_id: str, **fields: object) -> dict:
    """An object of this project's own form."""
    return {"id": post_id, "text": f"text of {post_id}", "image": "0.jpg", "keyphrases": ["key"]} | fields


def write_rows(file: Path, rows: Iterable[dict]) -> Path:
    """JSON Lines."""
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def read_rows(file: Path) -> list[dict]:
    """JSON Lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def records_of(out: Path, split: str) -> list:
    """All records of a prepared split."""
    records = open_split(out, split)
    return [records[i] for i in range(len(records))]
