"""Folders of an older version are renamed once, and found again by paths into them."""

import threading

import pytest

from mmkp_jax.runtime.aside import put_aside, put_aside_of


def made(folder, content="old"):
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text(content)
    return folder


def test_a_folder_is_renamed_and_found_by_what_was_in_it(tmp_path):
    folder = made(tmp_path / "pocket")
    aside = put_aside(folder, 3, lambda: True)
    assert aside == tmp_path / "pocket.version-3" and not folder.exists()
    made(folder, "new")
    assert put_aside_of(folder / "model" / "config.json") == [aside / "model" / "config.json"]
    assert put_aside_of(folder) == [aside]
    assert put_aside_of(folder / "posts") == []
    assert put_aside_of(tmp_path / "another" / "model") == []


def test_a_taken_name_is_numbered_and_the_newest_is_first(tmp_path):
    for number in range(3):
        put_aside(made(tmp_path / "pocket", str(number)), 1, lambda: True)
    names = ["pocket.version-1", "pocket.version-1.2", "pocket.version-1.3"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    assert [(tmp_path / name / "model" / "config.json").read_text() for name in names] == ["0", "1", "2"]
    assert [each.name for each in put_aside_of(tmp_path / "pocket")] == names[::-1]


def test_what_another_process_replaced_meanwhile_is_kept(tmp_path):
    folder = made(tmp_path / "pocket")
    assert put_aside(folder, 1, lambda: False) is None and folder.exists()
    assert put_aside(tmp_path / "none", 1, lambda: True) is None


@pytest.mark.parametrize("threads", [8])
def test_of_several_at_once_one_renames_it(tmp_path, threads):
    folder, start, got = made(tmp_path / "pocket"), threading.Barrier(threads), []

    def is_old() -> bool:
        return (folder / "model" / "config.json").read_text() == "old"

    def take() -> None:
        start.wait()
        got.append(put_aside(folder, 1, is_old))
        if got[-1]:
            made(tmp_path / "unfinished", "new").rename(folder)  # at once, as pockets are made

    workers = [threading.Thread(target=take) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(each is not None for each in got) == 1 and len(got) == threads
    assert (folder / "model" / "config.json").read_text() == "new"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pocket", "pocket.version-1"]
