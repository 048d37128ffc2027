"""Files next to posts: OCR and attribute lines, features of images; and what is wrong with them, in one line."""

import numpy as np
import pytest

from mmkp_jax.baselines.batches import Limits, inputs_of, pairs_of, source_of
from mmkp_jax.baselines.model import END, SEPARATOR, UNKNOWN
from mmkp_jax.baselines.sidecars import RegionFiles, Sidecars, WordLines
from mmkp_jax.baselines.vocabulary import load_vocabulary, make_vocabulary, save_vocabulary
from mmkp_jax.data.posts import PostText, Record
from mmkp_jax.errors import InputError


def record(post: str, text: str = "a", keyphrases: tuple[str, ...] = ("k",)) -> Record:
    return Record(post, text, b"", 0, 0, keyphrases, None)


@pytest.fixture
def lines(tmp_path):
    (tmp_path / "test_ocr.txt").write_text("one\n\nThree words\n")
    return WordLines(str(tmp_path / "{split}_ocr.txt"), "data.ocr")


def test_a_post_has_the_line_of_its_id(lines):
    lines.check("test", ["test-1", "test-2", "test-3"])
    lines.check("train", ["test-3"])  # part of a file
    assert [lines.words(f"test-{n}") for n in (1, 2, 3)] == [["one"], [], ["three", "words"]]
    assert lines.words("test-4") == lines.words("other-1") == lines.words("text") == []


@pytest.mark.parametrize(
    "ids, line",
    [
        (["test-1", "test-2"], "it has 3 lines, and the split test has 2 posts"),
        (["test-4"], "it has 3 lines, and none for the post 'test-4'"),
        (["x"], "the post 'x' is not a line of a CMKP file"),
        (["valid-1"], "cannot be read"),
    ],
)
def test_lines_of_other_posts_are_refused(lines, ids, line):
    with pytest.raises(InputError, match=line):
        lines.check("test", ids)


def test_the_name_of_lines_needs_the_split():
    with pytest.raises(InputError, match=r"config\.data\.ocr"):
        WordLines("ocr.txt", "data.ocr")


def write(folder, split: str, array: np.ndarray, ids: list[str]) -> None:
    np.save(folder / f"{split}.npy", array)
    (folder / f"{split}.ids").write_text("".join(f"{each}\n" for each in ids))


def test_features_are_found_by_id(tmp_path):
    array = np.arange(12, dtype=np.float16).reshape(2, 2, 3)
    write(tmp_path, "train", array, ["b", "a"])
    regions = RegionFiles(str(tmp_path), ["train"])
    assert regions.shape == (2, 3)
    np.testing.assert_array_equal(
        regions.read([record("a"), record("c"), record("b")]), [array[1], 0 * array[0], array[0]]
    )


@pytest.mark.parametrize(
    "array, ids, line",
    [
        (np.zeros((2, 3), np.float32), ["a", "b"], r"it holds float32 of the shape \[2, 3\]"),
        (np.zeros((2, 3, 4), np.int32), ["a", "b"], "it holds int32"),
        (np.zeros((2, 3, 4), np.float32), ["a"], "it has 2 posts, and test.ids 1 ids"),
        (np.zeros((2, 2, 3), np.float32), ["a", "b"], "it has 2 x 3 numbers a post, and those of another split 1 x 3"),
        (np.array([[[{}]]]), ["a"], "cannot be read"),
    ],
)
def test_other_features_are_refused(tmp_path, array, ids, line):
    write(tmp_path, "train", np.zeros((1, 1, 3), np.float32), ["t"])
    write(tmp_path, "test", array, ids)
    with pytest.raises(InputError, match=line):
        RegionFiles(str(tmp_path), ["train", "test"])


def test_words_that_the_vocabulary_lacks_are_numbered_by_post_and_copied(tmp_path):
    (tmp_path / "train_ocr.txt").write_text("New sign\n")
    sidecars = Sidecars(ocr=WordLines(str(tmp_path / "{split}_ocr.txt"), "data.ocr"))
    vocabulary = make_vocabulary([PostText("t", "a b a", ("a b", "a"))], [["sign"]], 8)
    assert vocabulary.words[5:] == ("a", "b", "sign") and vocabulary.keyphrases == ("a b", "a")
    limits = Limits(text_words=3, keyphrase_words=2)
    source = source_of(record("train-1", "A x B c", ("x a", "y", "a b")), vocabulary, sidecars, limits)
    assert source.source == [5, UNKNOWN, 6, SEPARATOR, UNKNOWN, 7]
    assert source.copied == [5, 8, 6, SEPARATOR, 9, 7] and source.unknown == ["x", "new"]
    pairs = pairs_of([source], vocabulary, limits)
    assert [pair.target for pair in pairs] == [[8, 5, END], [UNKNOWN, END], [5, 6, END]]
    assert [pair.label for pair in pairs] == [-1, -1, 0]
    assert inputs_of([source], None, 2).source_BS.shape == (2, 16)
    save_vocabulary(vocabulary, tmp_path)
    assert load_vocabulary(tmp_path) == vocabulary
    with pytest.raises(InputError, match="not that of these training posts"):
        save_vocabulary(make_vocabulary([PostText("t", "c", ("a",))], [], 8), tmp_path)
