"""CMKP's real posts as a dataset: stand-in images, chains of thought from a plain template, a tokenizer of their own.

What comes of them tells that the code runs on real posts, not how well a method does: no image here is the real one,
no chain of thought a teacher's. Both say so wherever they are shown.
"""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from mmkp_jax.data.posts import Post, Reject, read_cmkp
from mmkp_jax.data.records import SplitCounts, write_dataset
from mmkp_jax.pocket.model import write_model
from mmkp_jax.pocket.tokenizer import train_tokenizer
from tests.support.paths import SHARED

STANDINS = SHARED / "tools" / "standin_images.py"
SAID = "stand-in images; chains of thought from a plain template, not from a teacher; a model of random weights"

Splits = Mapping[str, tuple[str, int | None]]
"""Of each split of the dataset: the CMKP split that it is taken from, and how many posts from its top; None: all."""


def template_chain(post: Post) -> str:
    """A chain of thought that any post can have: which of its keyphrases its text names."""
    named = [k for k in post.keyphrases if k.lower() in post.text.lower()]
    steps = [f"the text names {k}" if k in named else f"{k} is not named , it follows" for k in post.keyphrases]
    return f"template : the post begins with {' '.join(post.text.split()[:6])} . {' . '.join(steps)} ."


def draw_standins(raw: Path, images: Path, limit: int | None) -> None:
    """A stand-in image for each of the first `limit` posts of every split in `raw`."""
    flags = [] if limit is None else ["--limit", str(limit)]
    subprocess.run([sys.executable, STANDINS, raw, images, *flags], check=True, stdout=subprocess.DEVNULL)


def make_real(out: Path, raw: Path, images: Path, splits: Splits) -> dict[str, SplitCounts]:
    """Writes `out/dataset` and `out/model`; returns what became of the posts of each split."""

    def posts(split: str) -> Iterator[Post | Reject]:
        taken, n = splits[split]
        for post in islice(read_cmkp(raw, taken), n):
            yield dataclasses.replace(post, cot=template_chain(post)) if isinstance(post, Post) else post

    texts = [post for post in posts("train") if isinstance(post, Post)]
    tokenizer = train_tokenizer(part for post in texts for part in (post.text, "; ".join(post.keyphrases), post.cot))
    write_model(tokenizer, 0, out / "model")
    return write_dataset(out / "dataset", {split: posts(split) for split in splits}, images)


def command(out: Path, workdir: Path, *flags: str, strategy: str = "dyncot") -> list[str]:
    """The main command on a dataset and model that `make_real` wrote."""
    fields = {
        "make": "",
        "model.path": out / "model",
        "data.path": out / "dataset",
        "data.kinds": "",
        "row.tokens": 512,
        "row.images.patches": 320,
        "row.images.windows": 10,
        "row.labels": 320,
        "ablations": False,
    }
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    main = [sys.executable, "-m", "mmkp_jax.main", f"--config=configs/{strategy}.py", f"--workdir={workdir}"]
    return [*main, *overrides, *flags]


def environment() -> dict[str, str]:
    """Variables of a run on the CPU."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
