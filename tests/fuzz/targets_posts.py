"""Readers of posts, chains of thought, images and prepared datasets."""

import functools
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmkp_jax.data.chain_files import Chains
from mmkp_jax.data.images import FORMATS, ImageError, decode
from mmkp_jax.data.import_formats import post_of
from mmkp_jax.data.posts import Post, Reject, read_cmkp, read_jsonl
from mmkp_jax.data.records import REJECTS, open_split, rejected_posts, write_dataset
from mmkp_jax.data.shards import record_of
from mmkp_jax.data.size_index import index
from mmkp_jax.data.sources import Source, keyphrase_posts
from mmkp_jax.families.qwen2_5_vl.processor import Qwen2_5_VLProcessor
from mmkp_jax.inference.evaluate import read_kinds
from tests.fuzz.harness import Target
from tests.fuzz.mutate import as_gzip
from tests.support.posts_on_disk import tiny_recipe

OWN = [
    {"id": "a", "text": "snow in the city", "image": "0.png", "keyphrases": ["snow", "new york"], "cot": "It snows."},
    {"id": "b", "text": "bread", "image": None, "keyphrases": ["fresh bread"]},
    {
        "id": 12,
        "text": "café\u2028x",
        "keyphrases": "coffee; brown coffee",
        "cot": "<think>So.</think><answer>x</answer>",
    },
]
FOREIGN = [
    {
        "id": "a",
        "image": "0.png",
        "conversations": [
            {"from": "human", "value": "<image>\nsnow"},
            {"from": "gpt", "value": "<think>It snows.</think><answer>snow; winter</answer>"},
        ],
    },
    {
        "messages": [
            {"role": "system", "content": "s"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "0.png"}}],
            },
            {"role": "assistant", "content": "snow; winter"},
        ]
    },
    {
        "images": ["0.png"],
        "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "snow"}]},
        ],
    },
]
CMKP = b"snow in <number> <url> #x<sep>snow;new york<sep>https://pbs.example.com/media/0.jpg\nb<sep>c<sep>d.jpg\n"


def lines_of(rows: Sequence[dict]) -> bytes:
    """JSON Lines."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _own_posts(_: Path) -> list[bytes]:
    return [lines_of(OWN), lines_of(OWN[:1]), *(lines_of([row]) for row in FOREIGN)]


def _read_posts(data: bytes, root: Path, *, name: str = "train.jsonl", images: bool = True) -> None:
    (root / name).write_bytes(data)
    for row in read_jsonl(root / name, post_of=post_of):
        assert isinstance(row, Post | Reject)
        if isinstance(row, Reject):
            str(row.as_error()).encode()
        elif images:
            record_of(row, root)


def _read_folder(data: bytes, root: Path) -> None:
    shutil.rmtree(root / "raw", ignore_errors=True)
    (root / "raw").mkdir()
    (root / "raw" / "train.jsonl").write_bytes(data)
    (root / "cot.jsonl").write_bytes(lines_of([{"id": "a", "cot": "It snows."}]))
    for rows in Chains(root / "cot.jsonl").join(keyphrase_posts(root / "raw")).splits.values():
        list(rows)


def _read_cmkp(data: bytes, root: Path) -> None:
    (root / "train_src.txt").write_bytes(data)
    for row in read_cmkp(root, "train"):
        assert isinstance(row, Reject) or record_of(row, root)


def _cot_lines(_: Path) -> list[bytes]:
    return [lines_of([{"id": "a", "cot": "It snows."}, {"id": "b", "cot": "<think>x</think>"}])]


def _read_chains(data: bytes, root: Path) -> None:
    (root / "cot.jsonl").write_bytes(data)
    chains = Chains(root / "cot.jsonl")
    posts = [Post("a", "x", None, ("snow",)), Post("b", "y", None, ("bread",))]
    joined = chains.join(Source({"train": posts}))
    list(joined.splits["train"])
    for rows in joined.extra_files.values():
        json.dumps(list(rows)).encode()
    chains.summary().encode()


@functools.cache
def _images() -> list[bytes]:
    rng, found = np.random.default_rng(0), []
    pixels = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA", "ICO", "PCX", "JPEG2000", "SGI", "DDS"):
        for mode in ("RGB", "L", "RGBA", "P", "I;16", "F", "CMYK", "1", "LA"):
            image = Image.fromarray(pixels)
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256) if mode == "I;16" else image.convert(mode)
            out = io.BytesIO()
            try:
                image.save(out, kind)
            except (OSError, ValueError, KeyError):
                continue  # a format without this mode
            found.append(out.getvalue())
    assert len(found) > 50 and set(FORMATS)
    return [*found, b"<html>", b"version https://git-lfs.github.com/spec/v1\n", b"\x00\x00\x00\x18ftypheic"]


PROCESSOR = Qwen2_5_VLProcessor(image_token=0, min_pixels=3136, max_pixels=12_544)


def _decode(data: bytes, _: Path) -> None:
    image = decode(data)
    assert image.mode == "RGB"
    PROCESSOR.pixels(image, PROCESSOR.layout(image.height, image.width))


def _image_name(data: bytes, root: Path) -> None:
    record_of(Post("a", "x", data.decode("utf-8", "replace"), ("k",)), root / "images")


def _prepared(root: Path) -> Path:
    folder = root / "prepared"
    if not folder.exists():
        posts = [Post(f"train-{n}", f"post {n}", None, (f"key {n}",), None, "f", n) for n in range(1, 5)]
        posts.append(Post("train-5", "gone", "gone.png", ("key",), None, "f", 5))
        write_dataset(folder, {"train": posts}, root, on_bad_row="drop")
    return folder


def _dataset_file(pattern: str):
    def corpus(root: Path) -> list[bytes]:
        (file,) = _prepared(root).glob(pattern)
        return [file.read_bytes()]

    def feed(data: bytes, root: Path) -> None:
        (file,) = _prepared(root).glob(pattern)
        file.write_bytes(data)
        split = open_split(root / "prepared", "train")
        [split[number] for number in range(len(split))]
        rejected_posts(root / "prepared", "train")

    return corpus, feed


def _rejects(root: Path) -> list[bytes]:
    return [(_prepared(root) / REJECTS).read_bytes()]


def _read_rejects(data: bytes, root: Path) -> None:
    (_prepared(root) / REJECTS).write_bytes(data)
    rejected_posts(root / "prepared", "train")


def _lengths(root: Path) -> list[bytes]:
    split, recipe = open_split(_prepared(root), "train"), tiny_recipe(root / "tokenizer")
    index(split, recipe, root / "lengths")
    (file,) = (root / "lengths").iterdir()
    _read_lengths.known = split, recipe, file
    return [file.read_bytes()]


def _read_lengths(data: bytes, root: Path) -> None:
    split, recipe, file = _read_lengths.known
    file.write_bytes(data)
    lengths = index(split, recipe, root / "lengths")
    assert len(lengths.id_N) == len(split) == len(lengths.trunk_N)


def _kinds(_: Path) -> list[bytes]:
    return [lines_of([{"needs": {"snow": "text", "winter": "image"}}, {"needs": {}}])]


def _read_kinds(data: bytes, root: Path) -> None:
    (root / "needs.jsonl").write_bytes(data)
    for phrase, kind in read_kinds(str(root / "needs.jsonl")).items():
        assert isinstance(phrase, str) and isinstance(kind, str)


TARGETS = [
    Target("posts: JSON Lines", _own_posts, _read_posts, share=2),
    Target("posts: rows of other trainers", lambda _: [lines_of([row]) for row in FOREIGN], _read_posts, share=2),
    Target(
        "posts: an array",
        lambda _: [json.dumps(OWN).encode(), json.dumps(FOREIGN, indent=1).encode()],
        functools.partial(_read_posts, name="train.json"),
    ),
    Target("posts: gzip", _own_posts, functools.partial(_read_posts, name="train.jsonl.gz"), dress=as_gzip),
    Target("posts: a folder with chains", _own_posts, _read_folder, share=0.5),
    Target("posts: CMKP", lambda _: [CMKP], _read_cmkp),
    Target("chains of thought", _cot_lines, _read_chains),
    Target("images", lambda _: _images(), _decode, refusals=(ImageError,), share=3),
    Target("names of images", lambda _: [b"0.png", b"a/b.jpg", b"caf\xc3\xa9.png", b"/abs/x.png"], _image_name),
    Target("dataset: dataset_info.json", *_dataset_file("*/*/dataset_info.json"), share=0.1),
    Target("dataset: features.json", *_dataset_file("*/*/features.json"), share=0.1),
    Target("dataset: records", *_dataset_file("*/*/*array_record*"), share=0.1),
    Target("dataset: rejects.jsonl", _rejects, _read_rejects),
    Target("dataset: lengths", _lengths, _read_lengths, share=0.3),
    Target("kinds of keyphrases", _kinds, _read_kinds),
]
