"""Posts go into ArrayRecord and come out the same; what cannot be used is reported, and the counts add up."""

import json
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmkp_jax.data.posts import Post, Record, Reject
from mmkp_jax.data.records import SplitCounts, open_split, rejected_posts, write_dataset
from mmkp_jax.errors import InputError
from tests.data.test_images import random_image, saved
from tests.support.paths import ROOT

POSTS = [
    Post("t-1", "naïve 🎉\n", "a.png", ("snow day", "née; no")[:1], None, "f", 1),
    Post("t-2", "", None, ("a", "b"), "since …", "f", 2),
    Post("t-3", "turned", "turned.jpg", ("c",), None, "f", 3),
]


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "a.png").write_bytes(saved(random_image(60, 40)))
    (folder / "turned.jpg").write_bytes(saved(random_image(60, 40), "JPEG", exif=exif))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"<html>")
    (folder / "cut.jpg").write_bytes(saved(random_image(300, 300), "JPEG")[:1500])
    (folder / "strip.jpg").write_bytes(saved(Image.new("L", (4020, 20))))
    (folder / "huge.jpg").write_bytes(saved(Image.new("1", (12_000, 9_000))))
    return folder


def test_records_are_the_posts_in_their_order(tmp_path, images):
    many = [Post(f"v-{i}", f"text {i}", None, ("k",)) for i in range(300)]
    counts = write_dataset(tmp_path / "out", {"train": POSTS, "valid": many}, images)
    assert counts == {"train": SplitCounts(3, 3, 0), "valid": SplitCounts(300, 300, 0)}
    train = open_split(tmp_path / "out", "train")
    image_bytes = (images / "a.png").read_bytes()
    assert [train[i] for i in range(len(train))] == [
        Record("t-1", "naïve 🎉\n", image_bytes, 60, 40, ("snow day",), None),
        Record("t-2", "", b"", 0, 0, ("a", "b"), "since …"),
        Record("t-3", "turned", (images / "turned.jpg").read_bytes(), 40, 60, ("c",), None),
    ]
    valid = pickle.loads(pickle.dumps(open_split(tmp_path / "out", "valid")))
    assert [valid[i].id for i in range(len(valid))] == [post.id for post in many]
    assert not (tmp_path / "out" / "rejects.jsonl").read_text()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest sets aside our own
def test_bad_images_are_rejected_with_their_reason(tmp_path, images):
    bad = {
        "none.jpg": "no image", "empty.jpg": "empty", "text.jpg": "no image of a known kind", "cut.jpg": "truncated",
        "strip.jpg": "200:1", "huge.jpg": "12,000 x 9,000", "../a.png": "leaves", "/etc/passwd": "leaves",
    }  # fmt: skip
    rows = [*POSTS, Reject(None, "f", 4, "no JSON", "fix it")]
    rows += [Post(f"b-{i}", "t", name, ("k",), None, "f", 5 + i) for i, name in enumerate(bad)]
    counts = write_dataset(tmp_path / "out", {"train": rows}, images)
    assert counts == {"train": SplitCounts(len(rows), 3, 1 + len(bad))}
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    told = {"id": None, "file": "f", "line": 4, "reason": "no JSON", "hint": "fix it"}
    assert rejects[0] == {"split": "train", **told, "post": None}
    assert rejected_posts(tmp_path / "out", "train") == rows[4:]  # evaluation counts them
    assert rejected_posts(tmp_path / "out", "test") == []
    for i, (row, (name, reason)) in enumerate(zip(rejects[1:], bad.items(), strict=True)):
        assert (row["id"], row["line"]) == (f"b-{i}", 5 + i)
        assert reason in row["reason"]
        assert name in row["reason"]


def test_a_bad_row_stops_where_none_may_be(tmp_path, images):
    rows = [*POSTS, Post("b-1", "t", "cut.jpg", ("k",), None, "posts.jsonl", 4)]
    with pytest.raises(InputError, match=r"posts.jsonl:4: the image is truncated.*cut.jpg"):
        write_dataset(tmp_path / "out", {"train": rows}, images, on_bad_row="error")
    with pytest.raises(InputError, match="no dataset"):
        open_split(tmp_path / "out", "train")
    assert write_dataset(tmp_path / "out", {"train": rows}, images)["train"].rejects == 1


def test_a_split_without_usable_posts_is_the_users_mistake(tmp_path, images):
    with pytest.raises(InputError, match="no posts"):
        write_dataset(tmp_path / "a", {"train": []}, images)
    with pytest.raises(InputError, match="none of them usable"):
        write_dataset(tmp_path / "b", {"train": [Post("x", "t", "none.jpg", ("k",))]}, images)


def test_a_killed_run_leaves_no_dataset(tmp_path, images):
    half = tmp_path / "out/keyphrase_posts/incomplete.ABC_1.0.0"
    half.mkdir(parents=True)
    (half / "dataset_info.json").write_text("{}")
    with pytest.raises(InputError, match="no dataset"):
        open_split(tmp_path / "out", "train")
    assert write_dataset(tmp_path / "out", {"train": POSTS}, images)["train"].records == 3


def test_a_dataset_is_never_written_over(tmp_path, images):
    write_dataset(tmp_path / "out", {"train": POSTS}, images)
    with pytest.raises(InputError, match="already"):
        write_dataset(tmp_path / "out", {"train": POSTS[:1]}, images)
    with pytest.raises(InputError, match="did you mean 'train'"):
        open_split(tmp_path / "out", "trian")


def test_the_fingerprint_is_the_contents(tmp_path, images):
    prints = []
    for name, posts in (("a", POSTS), ("b", POSTS), ("c", POSTS[::-1])):
        write_dataset(tmp_path / name, {"train": posts}, images)
        prints.append(open_split(tmp_path / name, "train").fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_a_full_disk_is_one_clear_line(tmp_path, images):
    script = (
        "import sys; from mmkp_jax.data.posts import Post; from mmkp_jax.data.records import write_dataset\n"
        "from mmkp_jax.errors import InputError\n"
        "import random; text = random.Random(0).randbytes(9_000).hex()\n"
        "posts = [Post(str(i), text + str(i), None, ('k',)) for i in range(200)]\n"
        "try: write_dataset(sys.argv[1], {'train': posts}, sys.argv[2])\n"
        "except InputError as error: print('told:', error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out"), str(images)],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )  # fmt: skip
    assert "told:" in done.stdout, done.stderr[-2000:]
