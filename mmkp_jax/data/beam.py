"""Writes the blocks of a dataset with Apache Beam, on as many processes and machines as its runner has.

Every worker must see the same folders: the raw posts' images, and the dataset's.
"""

import functools
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mmkp_jax.data.shards import write_block
from mmkp_jax.errors import InputError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


def read_options(line: str) -> "PipelineOptions":
    """Apache Beam's options, as on its command line: `--runner=… --direct_num_workers=8`.

    Raises:
        InputError: Apache Beam is not installed, or refuses the options.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise InputError("Apache Beam is not installed", "--beam", "pip install 'mmkp_jax[beam]'") from None
    try:
        options = PipelineOptions(shlex.split(line))
        options.get_all_options()  # reads them
    except (SystemExit, ValueError) as error:
        raise InputError(f"Apache Beam refuses {line!r} ({error})", "--beam", "see its documentation") from None
    return options


def write_blocks(blocks: Iterable[Path], images: Path, options: "PipelineOptions") -> None:
    """Writes the blocks, each into its own files; rejects are in each block's result."""
    import apache_beam

    write = functools.partial(_write, images=os.path.abspath(images))
    with apache_beam.Pipeline(options=options) as pipeline:
        names = pipeline | apache_beam.Create([os.path.abspath(block) for block in blocks])
        names | apache_beam.Reshuffle() | apache_beam.Map(write)


def _write(block: str, images: str) -> None:
    write_block(Path(block), Path(images))
