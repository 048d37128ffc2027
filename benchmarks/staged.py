"""The staged recipe: SFT for the first half of a run, then Fine-tune-CoT from its weights for the other.

    python -m benchmarks.staged --workdir=DIR [--presets=NAME=VALUE,…] [--config.key=value …]

Two runs of `mmkp_jax.main`, each with its own warm-up and cosine, in `DIR-first` and DIR, with an export between them
in `DIR-first/half`, which has the data types of the base model's files, so pocket's weights are rounded to bfloat16
there. Of an odd number of epochs, SFT has the smaller part. Called again, it resumes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmkp_jax.export import main as export
from mmkp_jax.main import main
from mmkp_jax.runtime.config import read_config


def halves_of(config: str, flags: Sequence[str]) -> tuple[str, str]:
    """The flag that sets the length of each half, for an experiment with these flags."""
    whole = read_config(config, list(flags))
    name = "total_steps" if whole.total_steps else "num_epochs"
    first = whole[name] // 2
    return f"--config.{name}={first}", f"--config.{name}={whole[name] - first}"


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit status: that of the first part that does not end with 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--presets", default="")
    args, flags = parser.parse_known_args(arguments)
    presets = f":{args.presets}" if args.presets else ""
    before, after = halves_of(f"configs/sft.py{presets}", flags)
    first = Path(f"{args.workdir}-first")
    half = first / "half"
    if not (half / "config.json").exists():
        # its scores are not asked for: one post is tested
        sft = [f"--config=configs/sft.py{presets}", *flags, before, "--config.eval_posts=1", f"--workdir={first}"]
        if status := main(sft) or export([f"--workdir={first}", f"--out={half}"]):
            return status
    cot = [f"--config=configs/cot.py{presets}", *flags, after, f"--config.model.path={half}"]
    return main([*cot, f"--workdir={args.workdir}"])


if __name__ == "__main__":
    sys.exit(run())
