"""A file or folder is either the old or the new one, never a part of either."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmkp_jax.runtime.atomic import (
    _is_special,
    making_folder,
    part_of,
    rename_damaged,
    replacing,
    replacing_folder,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_only_the_old_file(tmp_path):
    file = tmp_path / "a.json"
    write_text(file, "old")
    with pytest.raises(RuntimeError), replacing(file) as out:
        out.write(b"new")
        raise RuntimeError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_part_file_left_by_a_kill_is_replaced(tmp_path):
    file = tmp_path / "new" / "a.json"
    file.parent.mkdir()
    part_of(file).write_text("half")
    write_json(file, {"é": 1})
    assert file.read_text() == '{\n  "é": 1\n}\n' and list(file.parent.iterdir()) == [file]


def test_a_number_that_json_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_link_is_kept_and_its_target_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "a.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new" and not target.is_symlink()
    assert [each.name for each in target.parent.iterdir()] == ["a.json"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        write_text(pipe, "new")
        assert read.result(timeout=30) == "new"
    assert stat.S_ISFIFO(pipe.stat().st_mode) and [each.name for each in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("file", ["/dev/null", "/dev/stdout"])
def test_devices_are_never_replaced(file):
    """Checked without writing: a fault here would remove the machine's `/dev/null`."""
    assert _is_special(Path(file))


def test_a_folder_as_the_target_is_an_error_that_leaves_no_file(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as raised:
        write_text(folder, "new")
    assert raised.value.filename == str(folder) and list(tmp_path.iterdir()) == [folder]


def test_a_folder_is_replaced_when_the_new_one_is_complete(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("")
    with pytest.raises(RuntimeError), replacing_folder(out):
        raise RuntimeError
    assert [each.name for each in out.iterdir()] == ["old"]
    (tmp_path / ".out.unfinished").mkdir()  # left by a killed process
    with replacing_folder(out) as unfinished:
        (unfinished / "new").write_text("")
        assert [each.name for each in out.iterdir()] == ["old"]
    assert [each.name for each in out.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [out]


def test_of_two_makers_of_a_folder_the_first_to_finish_provides_it(tmp_path):
    out = tmp_path / "above" / "out"
    with making_folder(out, out.exists) as second:
        with making_folder(out, out.exists) as first:
            (first / "first").write_text("")
        (second / "second").write_text("")
    assert [each.name for each in out.iterdir()] == ["first"] and list(out.parent.iterdir()) == [out]
    with pytest.raises(OSError), making_folder(out, lambda: False):
        pass
    assert [each.name for each in out.iterdir()] == ["first"] and list(out.parent.iterdir()) == [out]


def test_concurrent_writers_of_one_file_do_not_mix(tmp_path):
    file = tmp_path / "a"
    with replacing(file, unique=True) as first, replacing(file, unique=True) as second:
        first.write(b"first")
        second.write(b"second")
    assert file.read_bytes() == b"first" and list(tmp_path.iterdir()) == [file]  # not the one that ended last


def test_a_path_set_aside_keeps_its_name_as_a_prefix(tmp_path):
    (tmp_path / "7").mkdir()
    aside = rename_damaged(tmp_path / "7")
    assert aside.is_dir() and aside.name.startswith("7.damaged-") and list(tmp_path.iterdir()) == [aside]
