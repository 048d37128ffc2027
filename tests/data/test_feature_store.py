"""Features on disk: what is read is what was written, and a damaged or foreign file is one line."""

import dataclasses

import numpy as np
import pytest

from mmkp_jax.data.feature_store import HEADER, FeatureKind, FeatureStore, digest_of
from mmkp_jax.errors import InputError

IMAGE, SLOTS, WIDTH = b"an image's file", 6, 5
VALUES = {
    "float32": np.random.default_rng(0).standard_normal((SLOTS, WIDTH)).astype(np.float32),
    "uint16": np.random.default_rng(1).integers(0, 1 << 16, (SLOTS, WIDTH)).astype(np.uint16),
}


def store_in(folder, dtype="float32"):
    return FeatureStore(folder, FeatureKind(WIDTH, dtype))


@pytest.fixture
def written(tmp_path):
    """A store with the features of `IMAGE`, and their file."""
    store = store_in(tmp_path)
    store.write(digest_of(IMAGE), VALUES["float32"])
    (file,) = tmp_path.rglob("*.features")
    return store, file


@pytest.mark.parametrize("dtype", VALUES)
def test_features_are_read_as_they_were_written(tmp_path, dtype):
    store = store_in(tmp_path, dtype)
    assert store.present() == set()
    store.write(digest_of(IMAGE), VALUES[dtype][:, ::-1])  # not contiguous, as a part of a batch may be
    np.testing.assert_array_equal(store.read(IMAGE, SLOTS), VALUES[dtype][:, ::-1], strict=True)
    assert store.present() == {digest_of(IMAGE)}


def test_a_file_that_is_still_being_written_is_not_present(written):
    store, file = written
    file.rename(file.with_name(f".{file.name}-0123.part"))
    assert store.present() == set()
    with pytest.raises(InputError, match=r"cannot be read \(No such file.*start the run again"):
        store.read(IMAGE, SLOTS)


@pytest.mark.parametrize("at", [9, 12, HEADER.size, HEADER.size + 4 * SLOTS * WIDTH - 1])
def test_a_changed_byte_is_one_line(written, at):
    store, file = written
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        store.read(IMAGE, SLOTS)
    line = f"{file}: these features are damaged: their checksum is another; delete it: the run that is started next"
    assert str(error.value) == f"{line} computes it again"


@pytest.mark.parametrize("length", [0, 10, HEADER.size, HEADER.size + 7])
def test_a_file_that_is_cut_short_is_one_line(written, length):
    store, file = written
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(InputError, match=r"no file of features|damaged"):
        store.read(IMAGE, SLOTS)


def test_features_of_another_shape_or_dtype_are_refused(written):
    store, _ = written
    with pytest.raises(InputError, match="the features are 6 x 5 of 'f', not 7 x 5 of 'f'"):
        store.read(IMAGE, SLOTS + 1)
    for kind in (FeatureKind(WIDTH, "uint16"), FeatureKind(WIDTH + 1, "float32")):
        with pytest.raises(InputError, match="the features are 6 x 5 of 'f', not 6 x"):
            dataclasses.replace(store, kind=kind).read(IMAGE, SLOTS)
