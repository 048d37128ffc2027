"""Predicts keyphrases of posts: `python -m mmkp_jax.predict --model=FOLDER|WORKDIR[@STEP|@best] …`.

The posts are those of a prepared dataset (--data, --split) or of a file (--posts, --images), or a single one (--text,
--image). With --base_url, the model is behind an OpenAI-compatible endpoint, and gets the prompt of --zero_shot, or
that of training by --prompt. An interrupted command resumes when it is run again. The exit status is 3 if --max_cost
was reached first, and 4 if no post got an answer.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmkp_jax.data.prompts import MODES
from mmkp_jax.evaluation.files import CMKP_ENDING
from mmkp_jax.evaluation.predictions import Prediction
from mmkp_jax.inference.inputs import posts_of
from mmkp_jax.inference.predict import PLACE, predict, predict_through_endpoint
from mmkp_jax.runtime.cli import Parser, status_of
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.teacher.flags import (
    add_endpoint_flags,
    check_endpoint_flags,
    refuse_endpoint_flags,
)
from mmkp_jax.teacher.session import NOTHING, STOPPED, NothingError
from mmkp_jax.teacher.store import answers_file

INPUTS = {"data": ("split",), "posts": ("images",), "text": ("image",)}
"""The flags that name posts, each with the flags that need it."""

SHARED = ("model", "temperature", "max_tokens")
"""Flags for a local model and for an endpoint."""
LOCAL = ("adapter", "zero_shot", "mode", "top_p", "seed", "n", "batch_size")
"""Flags for a local model only."""
MAX_TOKENS = 384
"""Default for the most tokens of an endpoint's answer."""


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("predict", __doc__)
    add = flags.add_argument
    add(
        "--model",
        metavar="MODEL",
        help="required: a Hugging Face folder, a hub id, or a work directory: DIR[@STEP|@best]; "
        "with --base_url, as the endpoint names it",
    )
    add("--adapter", default="", metavar="DIR", help="a PEFT adapter of --model, a Hugging Face folder or hub id")
    add("--data", type=Path, metavar="DIR", help="a prepared dataset")
    add("--split", metavar="NAME", help="the split of --data")
    add("--posts", type=Path, metavar="FILE", help=f"JSON Lines (.jsonl), or CMKP ({{split}}{CMKP_ENDING})")
    add("--images", type=Path, metavar="DIR", help="the folder of the images of --posts")
    add("--text", metavar="TEXT", help="one post's text")
    add("--image", type=Path, metavar="FILE", help="the image of --text")
    add("--out", type=Path, metavar="FILE", help="predictions: JSON Lines (.jsonl), else CMKP's form, a line a post")
    add("--explain", action="store_true", help="print the reasoning behind each answer")
    add("--zero_shot", action="store_true", help="describe the output's format, for a model that has not learnt it")
    about = "whether answers begin with <think>: always, never (direct), or as the model chooses (auto, the default); "
    about += f"several at a time, as direct,think, need {PLACE} in --out, a file for each"
    add("--mode", type=_modes, default=MODES[0], metavar="MODE[,MODE]", help=about)
    add(
        "--temperature",
        type=float,
        default=0.0,
        metavar="F",
        help="of sampling; 0 takes the likeliest token (0)",
    )
    add("--top_p", type=float, default=1.0, metavar="F", help="sample from the likeliest tokens of this share (1)")
    add("--seed", type=int, default=0, metavar="N", help="seed of sampling (0)")
    add("--n", type=int, default=1, metavar="N", help="samples a post; keyphrases of more samples come first (1)")
    add("--max_tokens", type=int, metavar="N", help="most tokens of an answer (default: the run's, or 384)")
    add("--batch_size", type=int, metavar="N", help="answers decoded at a time (default: the run's, or 32)")
    about = "with --base_url, the prompt: training, as a trained model takes it, or zero_shot (%(default)s)"
    add("--prompt", choices=("training", "zero_shot"), default="zero_shot", help=about)
    add_endpoint_flags(flags, MAX_TOKENS, skip=SHARED)
    return flags


def run(arguments: Sequence[str] | None = None) -> list[Prediction] | None:
    """Predicts as the flags say, and prints and writes the result; None if --max_cost was reached first."""
    flags = _parse(arguments)
    ids, read = posts_of(flags)
    if flags.base_url:
        return predict_through_endpoint(ids, read, flags)
    return predict(ids, read, flags)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after a one-line error; 3 if --max_cost was reached first; 4 if no post got an answer; 130
    if interrupted, after a line on how to resume.
    """

    def status(arguments: Sequence[str] | None) -> int:
        try:
            return STOPPED if run(arguments) is None else 0
        except NothingError as error:
            print(for_terminal(str(error)), file=sys.stderr)
            return NOTHING

    message = "interrupted; the same command resumes from --out, or from --store"
    return status_of(status, arguments, interrupted=message)


def _modes(given: str) -> str:
    """The modes of --mode, as they were given."""
    modes = given.split(",")
    for mode in modes:
        if mode not in MODES:
            raise argparse.ArgumentTypeError(f"invalid choice: {mode!r} (choose from {', '.join(MODES)})")
    if len(set(modes)) < len(modes):
        raise argparse.ArgumentTypeError(f"{given} names a mode twice")
    return given


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    flags = parser()
    parsed = flags.parse(arguments)
    if not parsed.model:
        flags.error("--model=FOLDER or WORKDIR is not given")
    given = [name for name in INPUTS if getattr(parsed, name) is not None]
    if len(given) != 1:
        message = " and ".join(f"--{name}" for name in given) if given else "no posts"
        flags.error(f"{message} given: give one of --data, --posts and --text")
    for name, others in INPUTS.items():
        for other in others:
            if name not in given and getattr(parsed, other) is not None:
                flags.error(f"--{other} goes with --{name}")
    if parsed.data and not parsed.split:
        flags.error("--data=DIR needs --split=NAME")
    if parsed.text is None and not parsed.out:
        flags.error("--out=FILE is not given")
    if "," in parsed.mode and PLACE not in (parsed.out.name if parsed.out else ""):
        flags.error(f"--mode={parsed.mode} needs --out with {PLACE} in the file's name: a file is of one mode")
    for name, low, high in (("temperature", 0, 100), ("top_p", 1e-6, 1), ("n", 1, 1000)):
        if not low <= getattr(parsed, name) <= high:
            flags.error(f"--{name}={getattr(parsed, name)} is not from {low} to {high}")
    for name in ("max_tokens", "batch_size"):
        if (value := getattr(parsed, name)) is not None and value < 1:
            flags.error(f"--{name}={value} is less than 1")
    for name in ("top_p", "seed"):
        if parsed.base_url is None and getattr(parsed, name) != flags.get_default(name) and not parsed.temperature:
            flags.error(f"--{name} needs --temperature above 0: without one nothing is sampled")
    if parsed.n > 1 and not parsed.temperature:
        flags.error("--n above 1 needs --temperature above 0, else all samples are the same")
    if parsed.base_url is None:
        if parsed.prompt != flags.get_default("prompt"):
            flags.error("--prompt goes with --base_url; a local model takes its training prompt without --zero_shot")
        refuse_endpoint_flags(parsed, flags, allowed=SHARED)
        return parsed
    if parsed.text is not None:
        flags.error("--base_url takes --data or --posts, not --text")
    if PLACE in parsed.out.name:
        flags.error(f"--out={parsed.out}: {PLACE} is for the modes of a local model; leave it out with --base_url")
    for name in LOCAL:
        if getattr(parsed, name) != flags.get_default(name):
            flags.error(f"--{name} does not go with --base_url" + "; --extra_body may" * (name in ("top_p", "seed")))
    parsed.max_tokens, parsed.store = parsed.max_tokens or MAX_TOKENS, parsed.store or answers_file(parsed.out)
    check_endpoint_flags(parsed, flags)
    return parsed


if __name__ == "__main__":
    sys.exit(main())
