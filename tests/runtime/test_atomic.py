"""A file is the old one or the new one, never a part of either."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmkp_jax.runtime.atomic import _is_special, part_of, replacing, write_json, write_text


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.json"
    write_text(file, "old")
    with pytest.raises(RuntimeError), replacing(file) as out:
        out.write(b"new")
        raise RuntimeError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_part_that_a_kill_left_is_replaced(tmp_path):
    file = tmp_path / "new" / "a.json"
    file.parent.mkdir()
    part_of(file).write_text("half")
    write_json(file, {"é": 1})
    assert file.read_text() == '{\n  "é": 1\n}\n' and list(file.parent.iterdir()) == [file]


def test_a_number_that_json_has_no_word_for_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "a.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new" and not target.is_symlink()
    assert [each.name for each in target.parent.iterdir()] == ["a.json"]


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        write_text(pipe, "new")
        assert read.result(timeout=30) == "new"
    assert stat.S_ISFIFO(pipe.stat().st_mode) and [each.name for each in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("file", ["/dev/null", "/dev/stdout"])
def test_what_the_system_has_is_never_replaced(file):
    """Asked, not tried: a fault here would take `/dev/null` away from the machine."""
    assert _is_special(Path(file))


def test_a_folder_is_named_and_nothing_is_made_next_to_it(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as raised:
        write_text(folder, "new")
    assert raised.value.filename == str(folder) and list(tmp_path.iterdir()) == [folder]
