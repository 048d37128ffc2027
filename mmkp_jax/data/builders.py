"""TFDS builders: how posts lie in ArrayRecord files. Written and read without TensorFlow."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mmkp_jax.data.posts import Record


class KeyphrasePosts(tfds.core.GeneratorBasedBuilder):
    """Writes rows of posts into one ArrayRecord dataset, in their order."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS would look beside the code for checksums of downloads, by a package that it does not require.
    code_path = None

    def __init__(self, *, rows: Mapping[str, Iterator[Record]], **options: Any):
        tfds.disable_progress_bar()
        self._rows = rows
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "text": tfds.features.Text(),
                "image": tfds.features.Tensor(shape=(), dtype=np.object_),  # the bytes as they are
                "width": np.int32,
                "height": np.int32,
                "keyphrases": tfds.features.Text(doc="a JSON list"),
                "cot": tfds.features.Text(),
                "has_cot": np.bool_,
            }
        )
        metadata = tfds.core.MetadataDict()
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True, metadata=metadata)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        return {split: self._generate_examples(split) for split in self._rows}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        digest = hashlib.sha256()
        for number, record in enumerate(self._rows[split]):
            row = dataclasses.asdict(record)
            row |= {"keyphrases": json.dumps(record.keyphrases), "cot": record.cot or "", "has_cot": bool(record.cot)}
            digest.update(repr(sorted(row.items())).encode())
            yield number, row
        self.info.metadata[split] = {"sha256": digest.hexdigest()}
