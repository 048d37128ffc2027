"""The posts that the page shows: examples of the test split, and the training posts nearest to a text."""

import base64
import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkp_jax.data.mixing import JoinedRecords
from mmkp_jax.data.numbered import Numbered, each_of
from mmkp_jax.data.posts import Record, text_of
from mmkp_jax.data.records import open_split
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.baselines import TextIndex
from mmkp_jax.inference.run_config import holds_run, run_config
from mmkp_jax.pages.report.browser import thumbnail
from mmkp_jax.pages.report.data import folders_of

EXAMPLES = 12
"""Test posts that the page offers."""
NEAREST = 3
"""Training posts that it shows."""


class ShownPosts:
    """Posts of datasets, read when they are first asked for; its methods may be called in any thread.

    Args:
        folders: the datasets; the first one's test split gives the examples.

    Raises:
        InputError: there is no such dataset, or it lacks the split `train` or `test`.
    """

    def __init__(self, folders: Sequence[Path]):
        self._test: Numbered[Record] = open_split(folders[0], "test")
        self._train: Numbered[Record] = JoinedRecords([open_split(folder, "train") for folder in folders])
        self._lock = threading.Lock()
        count = min(EXAMPLES, len(self._test))
        self._numbers = [n * len(self._test) // count for n in range(count)]

    @functools.cached_property
    def examples(self) -> list[dict[str, Any]]:
        """Each example's number, text and thumbnail."""
        return [{"number": n, "text": row.text, "image": _thumbnail(row)} for n, row in self._shown()]

    def example(self, number: int) -> dict[str, Any] | None:
        """A whole test post: text, keyphrases, thumbnail, and the image's file as a `data:` URL; None if it is none."""
        if number not in self._numbers:
            return None
        row = self._test[number]
        file = f"data:application/octet-stream;base64,{base64.b64encode(row.image).decode()}" if row.image else ""
        return {"text": row.text, "keyphrases": row.keyphrases, "image": _thumbnail(row), "file": file}

    def nearest(self, text: str) -> list[dict[str, Any]]:
        """The training posts with the most similar texts, the most similar first; those that share no word are none."""
        with self._lock:  # several requests must not read all posts at a time
            index = self._index
        if index is None:
            return []
        (cosine_M,) = index.cosine([text])
        best = np.argsort(-cosine_M, kind="stable")[:NEAREST].tolist()
        rows = [(self._train[number], float(cosine_M[number])) for number in best if cosine_M[number] > 0]
        return [
            {"text": row.text, "keyphrases": row.keyphrases, "image": _thumbnail(row), "similarity": round(cosine, 3)}
            for row, cosine in rows
        ]

    @functools.cached_property
    def _index(self) -> TextIndex | None:
        texts = [text_of(record).text for record in each_of(self._train)]
        return TextIndex(texts) if any(text.split() for text in texts) else None

    def _shown(self) -> list[tuple[int, Record]]:
        return [(number, self._test[number]) for number in self._numbers]


def shown_posts(data: Path | None, models: Sequence[str]) -> ShownPosts | str:
    """The posts of the dataset `data`, by default that of the first run among the models; or why there are none.

    Raises:
        InputError: `data` is given, and is not such a dataset.
    """
    if data is not None:
        return ShownPosts([data])
    runs = [path for path in (Path(model.partition("@")[0]) for model in models) if holds_run(path)]
    if not runs:
        return "a folder's model names no dataset; give --data=DIR for examples and nearest posts"
    try:
        return ShownPosts(folders_of(run_config(runs[0]).data.path))
    except InputError as error:
        return str(error)


def _thumbnail(row: Record) -> str:
    return thumbnail(row.image) if row.image else ""
