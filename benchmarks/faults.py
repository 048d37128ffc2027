"""Rejects of `prepare` for bad images among real posts: `python -m benchmarks.faults --raw=DIR --images=DIR`.

The folder of images has a `faults.tsv` next to them: `split, line, image, kind` of each that is bad on purpose.
"""

import argparse
import contextlib
import io
import json
import re
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.machine import describe_machine
from mmkp_jax import prepare

KINDS = {
    "missing": "there is no image",
    "empty": "the image file is empty",
    "truncated": "truncated or damaged|no image of a known kind",  # the second of a WebP
    "text": "no image of a known kind",
    "strip": "more than 200:1",
    "huge": "12,000 x 9,000 pixels",
    "one_pixel": None,
}
"""Pattern of the reject's reason for each kind of fault; None for images that can be fed."""


def read_faults(images: Path) -> dict[str, str]:
    """The kind of fault of each post, by its id."""
    lines = (images / "faults.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return {f"{split}-{line}": kind for split, line, _, kind in (each.split("\t") for each in lines)}


def read_rejects(out: Path) -> dict[str, str]:
    """The reason of each reject of a prepared dataset, by its post's id."""
    rows = map(json.loads, (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["reason"] for row in rows}


def are_as_expected(faults: dict[str, str], rejects: dict[str, str]) -> bool:
    """Whether the rejects are exactly the posts with an unusable image, each with its kind's reason."""
    wanted = {post: reason for post, kind in faults.items() if (reason := KINDS[kind])}
    return rejects.keys() == wanted.keys() and all(re.search(reason, rejects[post]) for post, reason in wanted.items())


def main() -> None:
    """Prepares once, and prints the rejects by kind."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--raw", type=Path, required=True, help="a folder in CMKP's layout")
    flags.add_argument("--images", type=Path, required=True, help="its images, and faults.tsv")
    given = flags.parse_args()
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            counts = prepare.run([f"--raw={given.raw}", f"--images={given.images}", "--dataset=mmkp", f"--out={out}"])
        seconds = time.perf_counter() - started
        faults, rejects = read_faults(given.images), read_rejects(Path(out))
        size = sum(file.stat().st_size for file in Path(out).rglob("*.array_record*"))
    posts = sum(count.posts for count in counts.values())
    print(describe_machine())
    for split, count in counts.items():
        print(f"{split}: {count.posts:,} posts = {count.records:,} records + {count.rejects:,} rejects")
    print(f"{'kind':<10} {'posts':>6} {'rejected':>9}")
    for kind, total in sorted(Counter(faults.values()).items()):
        print(f"{kind:<10} {total:>6} {sum(faults.get(post) == kind for post in rejects):>9}")
    print(f"{'none':<10} {posts - len(faults):>6} {sum(post not in faults for post in rejects):>9}")
    print(f"rejects are as expected: {are_as_expected(faults, rejects)}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{seconds:.1f} s, {posts / seconds:.0f} posts/s, {size / 1e9:.2f} GB written, peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
