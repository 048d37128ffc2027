"""A run's checkpoint → a Hugging Face folder: `python -m mmkp_jax.export --workdir=DIR [--step=N] --out=DIR`.

With --verify, transformers loads the folder and is held against our model. Nothing is uploaded but by --push_to_hub.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.cli import Parser, status_of

if TYPE_CHECKING:
    from mmkp_jax.inference.export_run import Verdict

SHOWN = 5
"""Ids of posts that are answered differently."""


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("export", __doc__)
    add = flags.add_argument
    add("--workdir", type=Path, metavar="DIR", help="required: a run's work directory")
    add("--step", default="latest", metavar="N", help="of its checkpoint: a number, latest (default) or best")
    add("--out", type=Path, metavar="DIR", help="required: a folder that is not there yet, or is empty")
    add("--verify", action="store_true", help="compare logits and answers with transformers' (needs torch)")
    add("--push_to_hub", default="", metavar="REPO", help="upload it into a private repository, with --yes")
    add("--yes", action="store_true", help="confirm --push_to_hub")
    return flags


def run(arguments: Sequence[str] | None = None) -> None:
    """Exports as the flags say, and prints what was written."""
    flags = _parse(arguments)
    # Here, as these import JAX: a mistake is told at once.
    from mmkp_jax.hf.export import check_out, push
    from mmkp_jax.hf.verify import has_torch
    from mmkp_jax.inference.export_run import export, facts_of, open_step, verify

    check_out(flags.out)  # before the work, not after it
    step, opened = open_step(flags.workdir, flags.step)
    facts = facts_of(step, flags.push_to_hub)
    if facts.no_data:
        print(f"the card says nothing of data and scores: {facts.no_data}")
    counts = export(step, facts, flags.out)
    print(
        f"written: {flags.out}, step {step.number:,} of {flags.workdir}: {counts.trained:,} tensors that trained, "
        f"{counts.copied:,} copied from the base; config.json is the base's"
    )
    if flags.verify and not has_torch():
        print("not verified: torch is not installed")
    elif flags.verify:
        verdict = verify(step, opened, flags.out)
        print(told(verdict))
        if what := difference(verdict):
            raise InputError(what, str(flags.out), "do not use it, and report this")
    if flags.push_to_hub:
        print(f"uploaded: {push(flags.out, flags.push_to_hub)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after one line on what was wrong."""
    return status_of(run, arguments)


def told(verdict: "Verdict") -> str:
    """A verdict in two lines."""
    return (
        f"verified on {verdict.posts} test posts, in float32: transformers' logits are within {verdict.logits:.1e} of "
        f"ours, of the largest ({verdict.largest:.3g}); "
        f"{verdict.posts - len(verdict.other_answers)} answers are the same\n"
        f"rounding: logits of the run's own parameters are within {verdict.rounding:.3g} of the export's"
    )


def difference(verdict: "Verdict") -> str:
    """Why an export is not what the run's model is; empty where it is."""
    from mmkp_jax.hf.verify import BOUND

    if not verdict.logits <= BOUND:  # nor is NaN
        return f"transformers' logits differ from ours by {verdict.logits:.1e} of the largest, more than {BOUND:g}"
    if others := verdict.other_answers:
        ids = ", ".join([*others[:SHOWN], *["…"] * (len(others) > SHOWN)])
        return f"transformers answers {len(others)} of {verdict.posts} posts differently: {ids}"
    return ""


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    flags = parser()
    parsed = flags.parse(arguments)
    for name in ("workdir", "out"):
        if not getattr(parsed, name):
            flags.error(f"--{name}=DIR is not given")
    if parsed.push_to_hub and not parsed.yes:
        flags.error(f"--push_to_hub={parsed.push_to_hub} uploads the folder: confirm it with --yes")
    return parsed


if __name__ == "__main__":
    sys.exit(main())
