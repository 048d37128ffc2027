"""Peak memory of preparing and of feeding images that are small as files and large once decoded.

    python -m benchmarks.image_memory [--threads=16] [--side=9459]

Each way of reading runs in a process of its own, which reads one small image first; what is printed is the most memory
that it held beyond that, and what became of each image.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from mmkp_jax.data.image_files import ImageError
from mmkp_jax.data.images import with_image
from mmkp_jax.families.qwen2_5_vl.processor import Qwen2_5_VLProcessor

LARGEST = 9459
"""Pixels a side of the largest square that is below the limit of pixels."""
PROCESSOR = Qwen2_5_VLProcessor(image_token=0, min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
READERS = 8
"""Largest number of threads in which `predict` reads posts."""
ROUNDS = 3
"""Number of times that each image is read."""


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


IMAGES: dict[str, Callable[[int], bytes]] = {
    "sixteen.png": lambda side: _saved(Image.fromarray(np.full((side, side), 777, np.uint16)), "PNG"),
    "float.tif": lambda side: _saved(Image.new("F", (side, side), 0.5), "TIFF", compression="tiff_adobe_deflate"),
    "clear.gif": lambda side: _saved(Image.new("P", (side, side)), "GIF", transparency=0),
    "grey.jpg": lambda side: _saved(Image.new("L", (side, side), 9), "JPEG"),
    "colour.jpg": lambda side: _saved(Image.new("RGB", (side, side), "red"), "JPEG"),
    "turned.jpg": lambda side: _saved(Image.new("RGB", (side, side), "red"), "JPEG", exif=_turned()),
    "scans.jpg": lambda side: _saved(Image.new("RGB", (side, side), "red"), "JPEG", progressive=True, subsampling=0),
    "clear.png": lambda side: _saved(Image.new("RGBA", (side, side)), "PNG"),
    "clear.webp": lambda side: _saved(Image.new("RGBA", (side // 2, side // 2)), "WEBP", lossless=True, method=0),
}
"""Function that makes each image, by its file's name."""


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def make(folder: Path, side: int, names: list[str]) -> None:
    """Writes the images, and a small one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.png").write_bytes(_saved(Image.new("RGB", (64, 64)), "PNG"))
    for name in names:
        (folder / name).write_bytes(IMAGES[name](side))


def prepare(folder: Path, names: list[str], out: Path) -> dict[str, str]:
    """Prepares a dataset of the images; the outcome of each."""
    from mmkp_jax.data.posts import Post
    from mmkp_jax.data.records import write_dataset

    posts = [Post(f"{n}-{name}", "text", name, ("key",), None, "f", n) for n, name in enumerate(names)]
    write_dataset(out, {"train": posts}, folder)
    rejects = map(json.loads, (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    return dict.fromkeys(names, "a record") | {row["post"]["image"]: row["reason"] for row in rejects}


def feed(folder: Path, names: list[str], threads: int) -> dict[str, str]:
    """Reads the images as `predict` does, in threads, and cuts the usable ones into patches."""
    from mmkp_jax.data.posts import Post, Record
    from mmkp_jax.data.shards import record_of

    def read(name: str) -> str:
        row = record_of(Post(name, "text", name, ("key",)), folder)
        if not isinstance(row, Record):
            return row.reason
        try:
            layout = PROCESSOR.layout(row.height, row.width)
            return f"{len(with_image(row.image, lambda image: PROCESSOR.pixels(image, layout)))} patches"
        except ImageError as error:
            return error.reason

    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(names, pool.map(read, names), strict=True))


def measure(way: str, folder: Path, names: list[str], threads: int, rounds: int) -> None:
    """Prints, as JSON, the bytes beyond those after a small image, and the outcome of each image."""
    os.cpu_count = lambda: threads  # used by prepare

    def run(names: list[str], out: Path) -> dict[str, str]:
        return prepare(folder, names, out) if way == "prepare" else feed(folder, names, threads)

    with tempfile.TemporaryDirectory() as out:
        run(["small.png"], Path(out) / "small")
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        before = _status("VmRSS")
        found = run([*names] * rounds, Path(out) / "large")
        print(json.dumps({"bytes": _status("VmHWM") - before, "found": found}))


def peak_of(way: str, folder: Path, names: list[str], threads: int, rounds: int = ROUNDS) -> tuple[int, dict[str, str]]:
    """`measure` in a process of its own: bytes, and the outcome of each image."""
    call = f"measure({way!r}, Path({str(folder)!r}), {names!r}, {threads}, {rounds})"
    code = f"from benchmarks.image_memory import *; {call}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(ran.stderr)
    result = json.loads(ran.stdout.splitlines()[-1])
    return result["bytes"], result["found"]


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Makes the images, and measures each way of reading them."""
    from benchmarks.machine import (
        describe_machine,
    )  # imported here, as it imports JAX, which the measured processes do not need

    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--threads", type=int, default=16)
    flags.add_argument("--side", type=int, default=LARGEST, help="pixels a side")
    given = flags.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), given.side, [*IMAGES])
        for name in IMAGES:
            print(f"{name:<12} {(Path(folder) / name).stat().st_size / 1e3:>8,.0f} kB")
        for way, threads in (("prepare", given.threads), ("feed", min(READERS, given.threads))):
            taken, found = peak_of(way, Path(folder), [*IMAGES], threads)
            print(f"\n{way}, {threads} threads: {taken / 1e6:,.0f} MB beyond a small image")
            for name, what in found.items():
                print(f"  {name:<12} {what}")


if __name__ == "__main__":
    main()
