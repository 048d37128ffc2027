"""The traditional baselines on CMKP's real posts: trained on the valid posts, scored on all 5,372 test posts.

    JAX_PLATFORMS=cpu python -m benchmarks.baselines --raw=…/tw_mm_s1 --out=runs/floor text words

`text` reads texts alone, `words` also the image's attribute and OCR words. The last 500 valid posts choose the epoch.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import describe_machine
from mmkp_jax.data.posts import Post, read_cmkp
from tests.support.paths import ROOT

HELD_OUT = 500
"""Posts at the end of valid that are not trained on."""

RUNS = {"text": (), "words": ("ocr={raw}/{split}_ocr_final.txt", "attributes={raw}/{split}_attribute_cleaned.txt")}
"""Fields of each run, below `config.data`."""

SIZES = (
    *("embedding_width=100", "hidden_width=100", "vocabulary=6000", "batch_size=32"),
    *("num_epochs=8", "joint_epochs=1", "valid_posts=250", "beam_size=5", "patience=3"),
)
"""What differs from CMKP's sizes, so that two cores train it in minutes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("runs", nargs="+", choices=RUNS)
    args = parser.parse_args()
    raw, out = args.raw.absolute(), args.out.absolute()
    prepare(raw, out)
    print(describe_machine())
    for name in args.runs:
        fields = [each.replace("{raw}", str(raw)) for each in RUNS[name]]
        flags = [f"--config.{each}" for each in SIZES] + [f"--config.data.{each}" for each in fields]
        start = time.perf_counter()
        run(
            *("main", "--config=cmkp:data=mmkp", f"--config.data.path={out / 'dataset'}", f"--workdir={out / name}"),
            f"--config.data.train_keyphrases={raw / 'train_keyphrases.txt'}",
            *flags,
        )
        print(f"{name}: {(time.perf_counter() - start) / 60:.1f} minutes")
        print(json.dumps(json.loads((out / name / "comparisons.json").read_text())["scores"], indent=1))


def prepare(raw: Path, out: Path) -> None:
    """The dataset of valid's posts, without images, next to all test posts."""
    if (out / "dataset").exists():
        return
    valid = [each for each in read_cmkp(raw, "valid") if isinstance(each, Post)]
    test = [each for each in read_cmkp(raw, "test") if isinstance(each, Post)]
    splits = {"train": valid[:-HELD_OUT], "valid": valid[-HELD_OUT:], "test": test}
    (out / "posts").mkdir(parents=True, exist_ok=True)
    (out / "images").mkdir(exist_ok=True)
    for name, posts in splits.items():
        rows = [{"id": p.id, "text": p.text, "image": None, "keyphrases": p.keyphrases, "cot": None} for p in posts]
        (out / "posts" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = f"--raw={out / 'posts'}", f"--images={out / 'images'}", f"--out={out / 'dataset'}"
    run("prepare", "--dataset=keyphrase_posts", *flags)


def run(*arguments: str) -> None:
    """Runs a command of the package."""
    subprocess.run([sys.executable, "-m", "mmkp_jax", *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
