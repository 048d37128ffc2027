"""Checksums of a folder: every flipped bit, cut, missing and added file is noticed, alone or by several readers."""

import random

import pytest

from mmkp_jax.runtime.checksums import CHECKSUMS_FILE, _shares, find_damage, has_checksums, write_checksums


@pytest.fixture
def folder(tmp_path):
    rng = random.Random(0)
    for name, size in (("a", 5_000), ("state/d/b", 100), ("state/empty", 0), ('state/"c" é', 7)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(rng.randbytes(size))
    assert not has_checksums(tmp_path)
    write_checksums(tmp_path)
    return tmp_path


def test_a_folder_as_it_was_written_is_whole(folder):
    assert has_checksums(folder) and find_damage(folder) is None
    assert [find_damage(folder, share, 3) for share in range(3)] == [None] * 3


def test_each_flipped_bit_of_the_checksums_themselves_is_noticed(folder):
    content = (folder / CHECKSUMS_FILE).read_bytes()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / CHECKSUMS_FILE).write_bytes(flipped)
        assert find_damage(folder), f"bit {bit}"


def test_flipped_bits_of_any_file_are_noticed_by_the_reader_whose_share_it_is(folder):
    for name in ("a", "state/d/b", 'state/"c" é'):
        content = (folder / name).read_bytes()
        for bit in range(0, 8 * len(content), max(1, len(content) // 7)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            (folder / name).write_bytes(flipped)
            assert find_damage(folder) == f"the content of {name} is not what was written"
            assert [find_damage(folder, share, 2) is None for share in range(2)].count(False) == 1
        (folder / name).write_bytes(content)
    assert find_damage(folder) is None


def test_hidden_files_that_a_file_system_or_a_copy_made_are_passed_over(folder):
    (folder / ".nfs0001").write_bytes(b"")
    (folder / "state" / ".DS_Store").write_bytes(b"x")
    assert find_damage(folder) is None


def test_what_is_cut_missing_or_added_is_named_by_every_reader(folder):
    (folder / "new").write_bytes(b"")
    assert find_damage(folder) == find_damage(folder, 1, 2) == "new is not written with it"
    (folder / "new").unlink()
    (folder / "a").write_bytes((folder / "a").read_bytes()[:-1])
    assert find_damage(folder) == find_damage(folder, 1, 2) == "a has 4,999 bytes instead of 5,000"
    (folder / "a").unlink()
    (folder / "state/empty").unlink()
    assert find_damage(folder) == find_damage(folder, 1, 2) == "a and 1 more are missing"
    (folder / CHECKSUMS_FILE).unlink()
    assert find_damage(folder) == f"{CHECKSUMS_FILE} cannot be read"


def test_shares_hold_each_file_once_and_about_as_many_bytes():
    sizes = {f"file-{n}": size for n, size in enumerate([900, 800, 100, 50, 50, 0, 0])}
    shares = _shares(sizes, 2)
    assert sorted(name for share in shares for name in share) == sorted(sizes)
    assert [sum(sizes[name] for name in share) for share in shares] == [950, 950]
