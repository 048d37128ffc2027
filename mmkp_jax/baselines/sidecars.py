"""What accompanies posts: OCR words, attribute words and features of images, from files.

Lines: `data.ocr` and `data.attributes` name files as CMKP releases them, a line for each line of the posts' file, with
`{split}` for the split (`raw/{split}_ocr_final.txt`); a post of the id `valid-17` has line 17 of valid's file.

Features: `data.image_features` names a folder that holds for each split `{split}.npy`, float16 or float32 of the shape
[posts, regions, width] (49 x 512 of VGG16's last pooling, 36 x 2,048 of bottom-up attention), and `{split}.ids`, the
ids of the posts in that order, one a line. A post that is in neither file is one without an image. Or it is the folder
of a model, whose vision tower computes them.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from mmkp_jax.baselines.vocabulary import words_of
from mmkp_jax.data.posts import Record
from mmkp_jax.errors import InputError
from mmkp_jax.runtime.lines import read_lines

SPLIT = "{split}"

LINE_ID = re.compile(r"(?P<split>[a-z]+)-(?P<line>[1-9]\d*)")
"""A CMKP post's id."""


class Regions(Protocol):
    """Features of images by post."""

    shape: tuple[int, int]
    """Regions of an image, and numbers of each."""

    def keep(self, record: Record) -> Record:
        """What `read` needs of a post, without the bytes of its image."""
        ...

    def read(self, records: Sequence[Record]) -> np.ndarray:
        """`region_BRF`, float32; 0 for a post without an image."""
        ...


class WordLines:
    """Words of posts' images, from line-aligned files.

    Args:
        named: the files, with `{split}` in their names.
        field: the field of the config that names them.

    Raises:
        InputError: the name lacks `{split}`, or a split's file cannot be read.
    """

    def __init__(self, named: str, field: str):
        self._named, self._field = named, field
        self._lines: dict[str, list[str]] = {}
        if SPLIT not in named:
            raise InputError(f"the name of these files has no {SPLIT}", f"config.{field}", f"give FOLDER/{SPLIT}_….txt")

    def check(self, split: str, ids: Sequence[str]) -> None:
        """Checks that each post has a line; and each line a post, where the posts are a whole file's.

        Args:
            ids: those of all posts of a split, rejected ones included.

        Raises:
            InputError: they differ.
        """
        for each in ids:
            self._find(each, needed=True)
        if set(ids) == {f"{split}-{number}" for number in range(1, len(ids) + 1)} and len(self._of(split)) != len(ids):
            what = f"it has {len(self._of(split)):,} lines, and the split {split} has {len(ids):,} posts"
            raise InputError(
                what, str(self._file(split)), f"give the file of the posts' release (config.{self._field})"
            )

    def words(self, post: str) -> list[str]:
        """The words on the line of a post; none for posts that are not of these files."""
        return words_of(self._find(post, needed=False))

    def _find(self, post: str, *, needed: bool) -> str:
        found = LINE_ID.fullmatch(post)
        if found and (needed or self._file(found["split"]).is_file()):
            lines = self._of(found["split"])
            if int(found["line"]) <= len(lines):
                return lines[int(found["line"]) - 1]
            if needed:
                what = f"it has {len(lines):,} lines, and none for the post {post!r}"
                raise InputError(what, str(self._file(found["split"])), "give the file that belongs to the posts")
        elif needed:
            what = f"the post {post!r} is not a line of a CMKP file (its id would be valid-17)"
            raise InputError(what, f"config.{self._field}", "leave it out, or prepare the posts from CMKP's files")
        return ""

    def _file(self, split: str) -> Path:
        return Path(self._named.replace(SPLIT, split))

    def _of(self, split: str) -> list[str]:
        if split not in self._lines:
            self._lines[split] = read_lines(self._file(split), f"check config.{self._field}")
        return self._lines[split]


def without_image(record: Record) -> Record:
    """The post without its image and its chain of thought, which take most of the memory."""
    return Record(record.id, record.text, b"", 0, 0, record.keyphrases, None)


class RegionFiles:
    """Features of images in a folder; memory-mapped.

    Raises:
        InputError: it has no features; a split's files are missing, damaged, of different lengths, or of another shape
            than the first.
    """

    def __init__(self, folder: str, splits: Sequence[str]):
        self.shape = (0, 0)
        self._rows: dict[str, tuple[np.ndarray, int]] = {}
        if not splits:
            raise InputError("it holds neither features nor a model", folder, "give {split}.npy, or a model's folder")
        for split in splits:
            file = Path(folder) / f"{split}.npy"
            ids = read_lines(file.with_suffix(".ids"), "give one id a line (config.data.image_features)")
            array_NRF = _mapped(file)
            if len(ids) != len(array_NRF):
                what = f"it has {len(array_NRF):,} posts, and {split}.ids {len(ids):,} ids"
                raise InputError(what, str(file), "write both in the same order")
            if self.shape not in ((0, 0), array_NRF.shape[1:]):
                what = f"it has {_by(array_NRF.shape[1:])} numbers a post, and those of another split {_by(self.shape)}"
                raise InputError(what, str(file), "give features of one kind")
            self.shape = tuple(array_NRF.shape[1:])
            self._rows.update({each: (array_NRF, number) for number, each in enumerate(ids)})

    def keep(self, record: Record) -> Record:
        """As `Regions.keep`."""
        return without_image(record)

    def read(self, records: Sequence[Record]) -> np.ndarray:
        """As `Regions.read`."""
        out = np.zeros((len(records), *self.shape), np.float32)
        for number, record in enumerate(records):
            if found := self._rows.get(record.id):
                out[number] = found[0][found[1]]
        return out


@dataclasses.dataclass(frozen=True)
class Sidecars:
    """What accompanies a run's posts."""

    ocr: WordLines | None = None
    attributes: WordLines | None = None
    regions: Regions | None = None

    def check(self, ids: Mapping[str, Sequence[str]]) -> None:
        """Checks the lines against the ids of the splits' posts; raises as `WordLines.check`."""
        for lines in filter(None, (self.ocr, self.attributes)):
            for split in ids:
                lines.check(split, ids[split])


def _mapped(file: Path) -> np.ndarray:
    """The array in a file, which is not read yet."""
    hint = "give float16 or float32 of the shape [posts, regions, width]"
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"cannot be read ({reason})", str(file), hint) from None
    if array.ndim != 3 or array.dtype not in (np.float16, np.float32) or 0 in array.shape[1:]:
        raise InputError(f"it holds {array.dtype} of the shape {list(array.shape)}", str(file), hint)
    return array


def _by(shape: Sequence[int]) -> str:
    return " x ".join(f"{each:,}" for each in shape)
