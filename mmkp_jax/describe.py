"""Describes a prepared dataset: `python -m mmkp_jax.describe --data=DIR [--config=FILE] [--out=FILE.html]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.atomic import write_text
from mmkp_jax.runtime.cli import Parser, status_of
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.interrupts import while_loading

if TYPE_CHECKING:
    from mmkp_jax.pages.dataset.facts import Description

WITHOUT_CONFIG = (
    "Token lengths, trimmed texts, posts longer than a row and the model's input: "
    "add --config=configs/dyncot.py:model=…, whose tokenizer, pixel limits and rows are then used."
)


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("describe", __doc__)
    add = flags.add_argument
    add("--data", type=Path, metavar="DIR", help="a prepared dataset; by default the config's")
    add(
        "--config",
        metavar="FILE|NAME[:preset,…]",
        help="an experiment: adds token lengths, and what its rows trim or leave out; --config.key=value overrides",
    )
    add("--out", type=Path, metavar="FILE.html", help="also write a page")
    return flags


def run(arguments: Sequence[str] | None = None) -> "Description":
    """Describes the dataset as the flags say, and prints and writes the result."""
    flags, overrides = _parse(arguments)
    with while_loading():  # imports that a wrong flag does not need
        from tqdm import tqdm

        from mmkp_jax.pages.dataset.facts import describe_dataset, preview_posts
        from mmkp_jax.pages.dataset.page import page_of, tables_of
        from mmkp_jax.pages.tables import as_text

    data, setup = flags.data, None
    if flags.config:
        from mmkp_jax.pages.dataset.feeding import read_batch_setup  # imports JAX, which only a config needs

        data, setup = read_batch_setup(flags.config, overrides, flags.data)
    description = describe_dataset(
        data,
        setup,
        progress=lambda numbers, split: tqdm(
            numbers, desc=split, unit="post", leave=False, dynamic_ncols=True, disable=None
        ),
    )
    print("\n\n".join(map(as_text, tables_of(description))))
    if not setup:
        print(f"\n{WITHOUT_CONFIG}")
    if flags.out:
        write_text(flags.out, page_of(description, preview_posts(description)))
        print(f"\nwritten: {for_terminal(str(flags.out))}")
    return description


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after a one-line error."""
    return status_of(run, arguments)


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and those that override fields of the config."""
    flags = parser()
    parsed, overrides = flags.parse_with_overrides(arguments)
    if overrides and not parsed.config:
        flags.error(f"{overrides[0]} goes with --config=FILE")
    if not parsed.data and not parsed.config:
        flags.error("neither --data=DIR nor --config=FILE is given")
    if parsed.out and not parsed.out.parent.is_dir():  # reported before the work, not after it
        raise InputError("there is no such folder", str(parsed.out.parent), "make it, or name another --out")
    return parsed, overrides


if __name__ == "__main__":
    sys.exit(main())
