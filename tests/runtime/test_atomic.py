"""A file is the old one or the new one, never a part of either."""

import pytest

from mmkp_jax.runtime.atomic import part_of, replacing, write_json, write_text


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
