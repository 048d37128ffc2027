"""Exports a run's checkpoint as a Hugging Face folder: `python -m mmkp_jax.export --workdir=DIR [--step=N] --out=DIR`.

A run with LoRA is merged into its base, or with --adapter written as an adapter for PEFT. With --verify, transformers
(for an adapter with PEFT) loads the folder and is compared with our model. Only --push_to_hub uploads anything.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.cli import Parser, status_of

if TYPE_CHECKING:
    from mmkp_jax.inference.export_run import Verification

SHOWN = 5
"""Number of ids to print of posts with different completions."""


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("export", __doc__)
    add = flags.add_argument
    add("--workdir", type=Path, metavar="DIR", help="required: a run's work directory")
    add("--step", default="latest", metavar="N", help="the checkpoint's step: a number, latest (default) or best")
    add("--out", type=Path, metavar="DIR", help="required: a folder that does not exist yet, or is empty")
    add("--verify", action="store_true", help="compare logits and answers with transformers' (needs torch)")
    add("--adapter", action="store_true", help="write the adapter of a run with LoRA, for PEFT, and no base")
    add("--push_to_hub", default="", metavar="REPO", help="upload it to a private repository; needs --yes")
    add("--yes", action="store_true", help="confirm --push_to_hub")
    return flags


def run(arguments: Sequence[str] | None = None) -> None:
    """Exports as the flags say, and prints what was written."""
    flags = _parse(arguments)
    # Here, as these import JAX: a wrong flag is reported at once.
    from mmkp_jax.hf.adapter import notes_on
    from mmkp_jax.hf.export import check_out, push
    from mmkp_jax.hf.verify import has_torch
    from mmkp_jax.inference.export_run import export, facts_of, open_step
    from mmkp_jax.inference.verify_export import verify

    check_out(flags.out)  # before the work, not after it
    step, loaded = open_step(flags.workdir, flags.step)
    facts = facts_of(step, flags.push_to_hub, adapter=flags.adapter)
    if facts.no_data:
        print(f"the card has no data and scores: {facts.no_data}")
    counts = export(step, facts, flags.out, adapter=flags.adapter)
    base = "" if flags.adapter else f", {counts.copied:,} copied from the base; config.json is the base's"
    kind = "adapter " if flags.adapter else ""
    print(
        f"written: {kind}{flags.out}, step {step.number:,} of {flags.workdir}: {counts.trained:,} trained tensors{base}"
    )
    for note in notes_on(step.definition.lora, step.base.family, adapter=flags.adapter):
        print(f"note: {note}")
    if flags.verify and not has_torch():
        print("not verified: torch is not installed")
    elif flags.verify:
        verification = verify(step, loaded, flags.out, adapter=flags.adapter)
        print(verification_text(verification))
        if what := difference(verification):
            raise InputError(what, str(flags.out), "do not use it, and report this")
    if flags.push_to_hub:
        print(f"uploaded: {push(flags.out, flags.push_to_hub)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after a one-line error."""
    return status_of(run, arguments)


def verification_text(verification: "Verification") -> str:
    """The result of a verification in two lines."""
    return (
        f"verified on {verification.posts} test posts, in float32: transformers' logits are within "
        f"{verification.logits:.1e} of ours, of the largest ({verification.largest:.3g}); "
        f"{verification.posts - len(verification.other_answers)} answers are the same\n"
        f"rounding: logits of the run's own parameters are within {verification.rounding:.3g} of the export's"
    )


def difference(verification: "Verification") -> str:
    """How an export differs from the run's model; empty if it does not."""
    from mmkp_jax.hf.verify import BOUND

    if not verification.logits <= BOUND:  # NaN is not
        return f"transformers' logits differ from ours by {verification.logits:.1e} of the largest, more than {BOUND:g}"
    if others := verification.other_answers:
        ids = ", ".join([*others[:SHOWN], *["…"] * (len(others) > SHOWN)])
        return f"transformers answers {len(others)} of {verification.posts} posts differently: {ids}"
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
