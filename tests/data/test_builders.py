"""What a prepared dataset is on disk: TFDS's own layout, checksummed, its images as they were."""

import hashlib
import json
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from mmkp_jax.data import dataset_files, shards
from mmkp_jax.data.builders import BUILDERS, Mmkp, MmkpV2, MmkpV2Config
from mmkp_jax.data.posts import Post
from mmkp_jax.data.records import open_split, write_dataset
from mmkp_jax.errors import InputError
from tests.support.raw_posts import records_of, write_images

POSTS = [Post(f"train-{i}", f"text {i}", f"{i}.jpg", ("key",), None, "f", i) for i in range(20)]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("builders") / "images")


@pytest.fixture
def dataset(tmp_path, images, monkeypatch) -> Path:
    monkeypatch.setattr(shards, "POSTS_A_BLOCK", 8)
    write_dataset(tmp_path / "out", {"train": POSTS}, images, name="mmkp")
    return tmp_path / "out"


def test_tfds_reads_it_without_our_code(dataset, images):
    builder = tfds.builder_from_directory(dataset / "mmkp/1.0.0")
    assert (builder.name, str(builder.version)) == ("mmkp", "1.0.0")
    assert builder.info.splits["train"].shard_lengths == [8, 8, 4]
    source = builder.as_data_source("train")
    assert [row["id"].decode() for row in source] == [post.id for post in POSTS]
    assert source[13]["image"] == (images / "13.jpg").read_bytes()
    assert (source[13]["width"], source[13]["height"]) == (53, 30)
    assert len(Mmkp(data_dir=dataset).as_data_source("train")) == 20


def test_checksums_are_those_of_the_files_and_of_any_other_run(dataset, tmp_path, images):
    folder = dataset / "mmkp/1.0.0"
    files = json.loads((folder / "metadata.json").read_text())["train"]["files"]
    assert len(files) == 3
    for name, reported in files.items():
        content = (folder / name).read_bytes()
        assert reported == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_dataset(tmp_path / "again", {"train": POSTS}, images, name="mmkp")
    assert (tmp_path / "again/mmkp/1.0.0/metadata.json").read_text() == (folder / "metadata.json").read_text()


def test_the_resampling_is_the_builders_config(tmp_path, images):
    for config in (MmkpV2Config(), MmkpV2Config(seed=1, target_overlap=0.25)):
        out = tmp_path / config.name
        write_dataset(out, {"train": POSTS}, images, name="mmkp_v2", config=config)
        assert (out / "mmkp_v2" / config.name / "1.0.0/dataset_info.json").is_file()
        assert len(records_of(out, "train")) == 20
    assert MmkpV2.builder_configs.keys() == {"overlap_0.4528-seed_0"}
    assert {name: builder.name for name, builder in BUILDERS.items()} == {name: name for name in BUILDERS}


def test_a_builder_without_posts_says_how_to_prepare(tmp_path):
    with pytest.raises(InputError, match=r"python -m mmkp_jax.prepare"):
        Mmkp(data_dir=tmp_path).download_and_prepare()


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_one_line(dataset, damage):
    file = sorted(dataset.glob("mmkp/1.0.0/*array_record*"))[1]
    content = file.read_bytes()
    middle = len(content) // 2
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(
            content[:middle] + (b"" if damage == "cut" else bytes([content[middle] ^ 1]) + content[middle + 1 :])
        )
    with pytest.raises(InputError, match=rf"{file.name}: the dataset is damaged in this file \(.*\); copy") as reported:
        open_split(dataset, "train")
    assert "\n" not in str(reported.value)


DESCRIBING = ("dataset_info.json", "features.json", "metadata.json")


def inner_places(value, path=()):
    """The path to every value inside a JSON value, and to itself."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from inner_places(each, (*path, key))


def changed(value, path, new):
    """A copy of a JSON value with another one at a path."""
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = changed(value[path[0]], path[1:], new)
    return copied


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DESCRIBING)
def test_a_damaged_file_that_describes_a_dataset_is_one_line_with_its_name(dataset, name):
    """One value of another type, at every place; nested too deep; cut."""
    file = next(dataset.rglob(name))
    text = file.read_text()
    whole = json.loads(text)
    texts = [json.dumps(changed(whole, at, new)) for at in inner_places(whole) for new in (None, 3, [[1]], {"a": {}})]
    refused = 0
    for damaged in [*texts, *(text[: len(text) * part // 9] for part in range(9)), "[" * 100_000, '{"a":' * 100_000]:
        file.write_text(damaged)
        try:
            split = open_split(dataset, "train")
            assert [split[number].id for number in range(20)] == [post.id for post in POSTS]  # it carries nothing
        except InputError as error:
            assert "\n" not in str(error) and any(each in error.where for each in (*DESCRIBING, "array_record"))
            refused += name in error.where
    assert refused > len(texts) // 3


def test_a_damaged_record_of_a_large_split_is_reported_when_it_is_read(dataset, images, monkeypatch):
    monkeypatch.setattr(dataset_files, "READ_ON_OPENING", 0)
    file = sorted(dataset.glob("mmkp/1.0.0/*array_record*"))[1]
    content = file.read_bytes()
    at = content.index((images / "12.jpg").read_bytes()) + 100
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    split = open_split(dataset, "train")
    assert split[11].id == "train-11"
    with pytest.raises(InputError, match=r"record 12 is damaged \(.*; copy the dataset again"):
        split[12]


def test_images_wait_in_bounded_number(dataset, tmp_path, images, monkeypatch):
    """The reader is never far ahead of the writer, however slow that is."""
    started, written = [], []
    monkeypatch.setattr(
        shards, "upright_size", lambda data, decode=shards.upright_size: started.append(1) or decode(data)
    )
    (tmp_path / "blocks").mkdir()
    monkeypatch.setattr(shards, "POSTS_A_BLOCK", 100)
    (block,) = shards.stage(POSTS * 5, tmp_path / "blocks", "train")
    shards.write_block(block, images, threads=2, progress=lambda n: written.append(len(started) - len(written)))
    assert len(written) == 100
    assert max(written) <= 4
