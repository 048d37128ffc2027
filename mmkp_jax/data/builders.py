"""TFDS builders: blocks of posts become the ArrayRecord files of a dataset. Written and read without TensorFlow.

A prepared dataset is read by `records.open_split`, or by TFDS without this code: `tfds.builder_from_directory(folder)`.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from tqdm import tqdm

from mmkp_jax.data.posts import REJECTS
from mmkp_jax.data.shards import BlockResult, OnBadRow, features, write_block
from mmkp_jax.errors import InputError
from mmkp_jax.runtime.program import command_line

RESAMPLED_OVERLAP = 0.4528
"""Most of MMKP-V2's distinct test keyphrases that training may have, as a share: that of the 360k set."""


def input_of(stamps: Iterable[str]) -> str:
    """Hash of what a split is made from, by the stamps of its blocks."""
    return hashlib.sha256("".join(stamps).encode()).hexdigest()


class PostsBuilder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):
    """Makes a dataset from staged blocks of posts, in order.

    Under `DownloadConfig(beam_options=…)` the blocks are written by Apache Beam.
    """

    VERSION = tfds.core.Version("1.0.0")
    # TFDS would look next to the code for checksums of downloads, with a package that it does not require.
    code_path = None

    def __init__(
        self,
        *,
        blocks: Mapping[str, Sequence[Path]] | None = None,
        images: str | Path = "",
        on_bad_row: OnBadRow = "drop",
        extra_files: Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
        progress: bool = False,
        **options: Any,
    ):
        """Takes what is to be prepared; an existing dataset needs none of it.

        Args:
            blocks: the blocks of each split, from `shards.stage`.
            images: the folder that posts' images are relative to.
            extra_files: rows of JSON Lines files, by name; written next to `rejects.jsonl`, before the dataset.
            progress: show a progress bar.
        """
        tfds.disable_progress_bar()
        self._blocks, self._images, self._progress = dict(blocks or {}), Path(images), progress
        self._on_bad_row: OnBadRow = on_bad_row
        self._extra_files = dict(extra_files or {})
        self.results: dict[str, list[BlockResult]] = {}
        """Results of the finished blocks, by split."""
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=features(),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: tfds.download.DownloadConfig) -> None:
        if not self._blocks:
            raise InputError(
                "there are no posts to prepare it from", str(self.data_dir), f"run {command_line('prepare')}"
            )
        if options := download_config.beam_options:
            from mmkp_jax.data.beam import write_blocks

            write_blocks([block for blocks in self._blocks.values() for block in blocks], self._images, options)
        try:
            for split, blocks in self._blocks.items():
                self._write(split, blocks)
        finally:
            self._write_extra_files()
        self.info.set_splits(tfds.core.splits.SplitDict([self._gather(split) for split in self._blocks]))

    def _write(self, split: str, blocks: Sequence[Path]) -> None:
        results = self.results[split] = []
        write = functools.partial(write_block, on_bad_row=self._on_bad_row, threads=os.cpu_count() or 1)
        total = sum(block.with_suffix(".posts").read_bytes().count(b"\n") for block in blocks)
        bar = tqdm(total=total, desc=split, unit="post", mininterval=1, dynamic_ncols=True, disable=not self._progress)
        with bar:
            results.extend(write(block, self._images, progress=bar.update) for block in blocks)
        if not any(result.records for result in results):
            where = str(Path(self._data_dir_root) / REJECTS)
            what = f"the split {split!r} has {total:,} posts, none of them usable"
            raise InputError(what, where, "see this file for the reasons")

    def _write_extra_files(self) -> None:
        rejects = (
            {"split": split} | row
            for split, results in self.results.items()
            for result in results
            for row in result.rejects
        )
        for name, rows in {REJECTS: rejects, **self._extra_files}.items():
            with (Path(self._data_dir_root) / name).open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def _gather(self, split: str) -> tfds.core.SplitInfo:
        """Moves the records of a split's blocks to where TFDS looks for shards, and records their checksums."""
        results = self.results[split]
        filled = [pair for pair in zip(self._blocks[split], results, strict=True) if pair[1].records]
        name = tfds.core.ShardedFileTemplate(
            data_dir=tfds.core.Path(self.data_dir),
            dataset_name=self.name,
            split=split,
            filetype_suffix="array_record",
        )
        files = {}
        for number, (block, result) in enumerate(filled):
            shard = name.sharded_filepath(shard_index=number, num_shards=len(filled))
            os.replace(block.with_suffix(".array_record"), shard)
            files[shard.name] = {"bytes": result.bytes, "sha256": result.sha256}
        self.info.metadata[split] = {
            "posts": sum(result.posts for result in results),
            "records": sum(result.records for result in results),
            "input": input_of(result.stamp for result in results),
            "fingerprint": hashlib.sha256("".join(result.fingerprint for result in results).encode()).hexdigest(),
            "files": files,
        }
        lengths, size = [result.records for _, result in filled], sum(result.bytes for _, result in filled)
        return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=name)


class Mmkp(PostsBuilder):
    """MMKP: the CMKP release's Twitter posts with images and keyphrases, split as downloaded."""


@dataclasses.dataclass(kw_only=True)
class MmkpV2Config(tfds.core.BuilderConfig):
    """How MMKP-V2 is resampled; see `resample.resample`."""

    seed: int = 0
    target_overlap: float = RESAMPLED_OVERLAP
    name: str = ""

    def __post_init__(self):
        self.name = f"overlap_{self.target_overlap}-seed_{self.seed}"


class MmkpV2(PostsBuilder):
    """MMKP-V2: MMKP's posts, resampled so that fewer test keyphrases are known from training."""

    BUILDER_CONFIGS: ClassVar = [MmkpV2Config()]

    def __init__(self, *, config: MmkpV2Config | str | None = None, **options: Any):
        known = next((each for each in self.BUILDER_CONFIGS if each == config), config)  # TFDS requires its own object
        super().__init__(config=known, **options)


class KeyphrasePosts(PostsBuilder):
    """Posts with images and keyphrases, from JSON Lines."""


def download_config(beam: str | None) -> tfds.download.DownloadConfig:
    """How the builders are run: in this process, or with these options of Apache Beam's command line.

    Raises:
        InputError: Apache Beam is not installed, or refuses the options.
    """
    if beam is None:
        return tfds.download.DownloadConfig()
    from mmkp_jax.data.beam import read_options

    return tfds.download.DownloadConfig(beam_options=read_options(beam))


BUILDERS = {"mmkp": Mmkp, "mmkp_v2": MmkpV2, "keyphrase_posts": KeyphrasePosts}
