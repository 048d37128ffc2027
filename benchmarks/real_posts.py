"""Dynamic CoT on CMKP's real posts: trained on all 5,370 of valid, evaluated on 500 of test.

    JAX_PLATFORMS=cpu python -m benchmarks.real_posts --raw=…/tw_mm_s1 --out=runs/real [--images=DIR]

Seen and unseen go by the release's own list of training keyphrases. Without `--images`, stand-ins are drawn (minutes).
"""

import argparse
import subprocess
import time
from pathlib import Path

from benchmarks.machine import describe_machine
from tests.support.paths import ROOT
from tests.support.real_posts import SAID, command, draw_standins, environment, make_real

SPLITS = {"train": ("valid", None), "test": ("test", 500)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=Path)
    args = parser.parse_args()
    print(f"{SAID}\n{describe_machine()}")
    out, raw = args.out.absolute(), args.raw.absolute()
    images = args.images.absolute() if args.images else out / "images"
    if not (out / "dataset").exists():
        if not args.images:
            draw_standins(raw, images, None)
        for split, counts in make_real(out, raw, images, SPLITS).items():
            print(f"{split}: {counts.posts:,} posts = {counts.records:,} records + {counts.rejects:,} rejects")
    flags = ("--config.num_epochs=2", "--config.ablations=True")
    seen = f"--config.data.train_keyphrases={raw / 'train_keyphrases.txt'}"
    start = time.perf_counter()
    subprocess.run(command(out, out / "run", seen, *flags), cwd=ROOT, env=environment(), check=True)
    print(f"{time.perf_counter() - start:,.0f} s; {SAID}")


if __name__ == "__main__":
    main()
