"""Images are found as `ls` shows them, stay inside their folder, and what is none is named."""

import unicodedata

import pytest

from mmkp_jax.data.image_files import ImageError, image_path, kind_of
from mmkp_jax.data.images import decode
from mmkp_jax.data.posts import Post, Record, Reject
from mmkp_jax.data.shards import record_of
from tests.data.test_images import random_image, saved

NAME = "café-naïve.png"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.png").write_bytes(saved(random_image(30, 30)))
    (tmp_path / "outside.png").write_bytes(saved(random_image(30, 30)))
    return folder


@pytest.mark.parametrize("written, named", [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC"), ("NFD", "NFD")])
def test_a_name_in_another_normal_form_is_found(root, written, named):
    file = root / unicodedata.normalize(written, NAME)
    file.write_bytes(b"x")
    assert image_path(root, unicodedata.normalize(named, NAME)) == file.resolve()


def test_of_two_names_that_differ_in_form_the_one_that_is_named_is_taken(root):
    for form in ("NFC", "NFD"):
        (root / unicodedata.normalize(form, NAME)).write_text(form)
    for form in ("NFC", "NFD"):
        assert image_path(root, unicodedata.normalize(form, NAME)).read_text() == form


def test_another_case_is_a_hint_and_never_used(root):
    with pytest.raises(ImageError, match=r"^'sub' is a folder, not an image$"):
        image_path(root, "sub")
    with pytest.raises(ImageError, match=r"there is no image 'sub/A\.PNG', but 'a\.png': case counts"):
        image_path(root, "sub/A.PNG")


def test_an_absolute_path_or_file_address_inside_is_taken(root):
    file = root / "sub" / "a.png"
    (root / "a b.png").write_bytes(b"x")
    named = [str(file), f"file://{file}", file.as_uri(), str(root / "sub" / ".." / "sub" / "a.png"), "sub/../sub/a.png"]
    assert {image_path(root, each) for each in named} == {file.resolve()}
    assert image_path(root, (root / "a b.png").as_uri()) == (root / "a b.png").resolve()


@pytest.mark.parametrize("named", ["../outside.png", "{}/outside.png", "file://{}/outside.png", "/etc/passwd", "link"])
def test_a_path_that_leads_out_is_refused(root, named):
    (root / "link").symlink_to(root.parent / "outside.png")
    with pytest.raises(ImageError, match="the folder of images"):
        image_path(root, named.format(root.parent))


@pytest.mark.parametrize("named", ["a" * 300 + ".png", "a/" * 3000, "a\0b", "sub", ""])
def test_a_name_that_no_file_can_have_is_a_reject(root, named):
    row = record_of(Post("1", "x", named or "sub/", ("k",), None, "f", 1), root)
    assert isinstance(row, Reject) and "image" in row.reason and len(row.reason) < 300
    assert "\n" not in str(row.as_error()) and "\0" not in str(row.as_error())


KINDS = {
    "HEIC": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100),
    "HTML": b"\n<!DOCTYPE html><html><body>404</body></html>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "PDF": b"%PDF-1.7\n",
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_image_that_is_read_is_named(root, kind):
    assert kind in kind_of(KINDS[kind])
    (root / "x.jpg").write_bytes(KINDS[kind])
    row = record_of(Post("1", "x", "x.jpg", ("k",), None, "f", 1), root)
    assert isinstance(row, Reject) and kind in row.reason


def test_other_bytes_are_of_no_known_kind(root):
    assert kind_of(b"something else") == ""
    with pytest.raises(ImageError, match="no image of a known kind"):
        decode(b"something else")


def test_a_file_beyond_the_limit_is_a_reject_and_says_how_to_raise_it(root, monkeypatch):
    post = Post("1", "x", "sub/a.png", ("k",), None, "f", 1)
    assert isinstance(record_of(post, root), Record)
    monkeypatch.setenv("MMKP_MAX_IMAGE_BYTES", "100")
    row = record_of(post, root)
    assert isinstance(row, Reject) and "more than 100 bytes" in row.reason and "MMKP_MAX_IMAGE_BYTES" in row.hint
