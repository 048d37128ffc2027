"""Writes a page on the scores, curves and outputs of runs: `python -m mmkp_jax.report RUN [RUN …] --out=FILE.html`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.cli import Parser, status_of
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.interrupts import while_loading


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("report", __doc__)
    add = flags.add_argument
    add("runs", type=Path, nargs="*", metavar="RUN", help="work directories of runs with the same test posts")
    add("--out", type=Path, metavar="FILE.html", help="required: the page")
    add("--data", type=Path, metavar="DIR", help="the dataset of the posts; by default the first run's")
    add("--tsne", action="store_true", help="project hidden states by t-SNE instead of PCA; needs mmkp_jax[tsne]")
    about = "folder of an embedding model (sentence-transformers), for semantic F1; needs mmkp_jax[semantic]"
    add("--embeddings", type=Path, metavar="DIR", help=about)
    return flags


def run(arguments: Sequence[str] | None = None) -> None:
    """Writes the report that the flags ask for."""
    flags = parser()
    parsed = flags.parse(arguments)
    if not parsed.runs:
        flags.error("no RUN is given")
    if not parsed.out:
        flags.error("--out=FILE.html is not given")
    if not parsed.out.parent.is_dir():  # reported before the work, not after it
        raise InputError("there is no such folder", str(parsed.out.parent), "make it, or name another --out")
    with while_loading():  # imports that a wrong flag does not need
        from mmkp_jax.evaluation.embedding import load_embedding
        from mmkp_jax.pages.report.page import write_report

    embed = load_embedding(parsed.embeddings) if parsed.embeddings else None
    write_report(parsed.runs, parsed.out, parsed.data, by_tsne=parsed.tsne, embed=embed)
    print(for_terminal(f"written: {parsed.out}"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after a one-line error."""
    return status_of(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
