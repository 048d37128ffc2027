import asyncio
import json
import os
import subprocess
import sys

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.store import Store


def row(key, cost=1.0, answer=True):
    return {"id": key, "key": key, "status": "answered", "answer": {"a": key} if answer else None, "cost": cost}


def add(store, *rows):
    async def added():
        await asyncio.gather(*map(store.add, rows))

    asyncio.run(added())


def test_what_is_added_is_there_for_the_next_process(tmp_path):
    with Store(tmp_path / "s") as store:
        add(store, row("a"), row("b", cost=None), row("c", cost=None, answer=False))
        assert store.get("b")["answer"] == {"a": "b"} and store.get("z") is None
    with Store(tmp_path / "s") as store:
        assert "a" in store and "z" not in store and len(store) == 3
        assert (store.spent, store.unpriced, store.refused) == (1.0, 1, {"c"})
        add(store, row("d"))
        assert store.get("d")["id"] == "d" and store.get("a")["id"] == "a"


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_that_was_cut_off_is_taken_back(tmp_path, cut):
    with Store(tmp_path / "s") as store:
        add(store, row("a"), row("b"))
    os.truncate(tmp_path / "s", (tmp_path / "s").stat().st_size - cut)
    with Store(tmp_path / "s") as store:
        assert "a" in store and "b" not in store
        add(store, row("c"))
    assert [json.loads(line)["key"] for line in (tmp_path / "s").read_text().splitlines()] == ["a", "c"]


def test_what_was_not_priced_is_told_at_its_most(tmp_path):
    most = {"prompt": 50, "completion": 100}
    used = {"prompt": 20, "completion": 3}
    with Store(tmp_path / "s") as store:
        without = row("b", cost=None) | {"most": most, "usage": None}
        told = row("c", cost=None) | {"most": most, "usage": used}
        add(store, row("a") | {"most": most}, without, told, {"lost": "d", "most": most})
    with Store(tmp_path / "s") as store:
        assert store.unpriced_tokens == (120, 203) and "d" not in store and store.answer_limits == {100}


def test_another_file_is_not_overwritten(tmp_path):
    (tmp_path / "s").write_text('{"id": "x"}\n')
    with pytest.raises(InputError, match="s:1: this line is no answer"):
        Store(tmp_path / "s")
    assert (tmp_path / "s").read_text() == '{"id": "x"}\n'


def test_one_process_at_a_time(tmp_path):
    with Store(tmp_path / "s"), pytest.raises(InputError, match="another command uses it now"):
        Store(tmp_path / "s")


def test_half_a_character_survives(tmp_path):
    with Store(tmp_path / "s") as store:
        add(store, row("a") | {"answer": {"a": "\ud83d"}})
        assert store.get("a")["answer"] == {"a": "\ud83d"}


def test_a_full_disk_is_one_line_and_leaves_no_half_row(tmp_path):
    script = f"""
import asyncio, resource, signal
from mmkp_jax.errors import InputError
from mmkp_jax.teacher.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
async def main(store):
    for n in range(9):
        await store.add({{"id": str(n), "key": str(n), "answer": {{"x": "y" * 50}}, "cost": 1}})
try:
    asyncio.run(main(Store(__import__("pathlib").Path({str(tmp_path / "s")!r}))))
except InputError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    assert "answers cannot be kept here (File too large)" in told
    lines = (tmp_path / "s").read_text().splitlines()
    assert lines and all(json.loads(line) for line in lines)
