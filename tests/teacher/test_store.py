import asyncio
import json
import os
import subprocess
import sys

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.teacher.cost import Usage
from mmkp_jax.teacher.store import Store


def row(key, cost=1.0, answer=True):
    usage = {"prompt": 1, "completion": 1} if cost is not None else None
    reported = {"answer": {"a": key} if answer else None, "usage": usage, "cost": cost}
    return {"id": key, "key": key, "status": "answered"} | reported


def add(store, *rows):
    async def added():
        await asyncio.gather(*map(store.add, rows))

    asyncio.run(added())


def test_added_rows_are_there_for_the_next_process(tmp_path):
    with Store(tmp_path / "s") as store:
        add(store, row("a"), row("b", cost=None), row("c", cost=None, answer=False))
        assert store.get("b")["answer"] == {"a": "b"} and store.get("z") is None
    with Store(tmp_path / "s") as store:
        assert "a" in store and "z" not in store and len(store) == 3
        assert (store.spent, store.unpriced, store.refused) == (1.0, 1, {"c"})
        add(store, row("d"))
        assert store.get("d")["id"] == "d" and store.get("a")["id"] == "a"


def test_an_answer_that_lacks_only_its_line_feed_is_kept(tmp_path):
    with Store(tmp_path / "s") as store:
        add(store, row("a"), row("b"))
    os.truncate(tmp_path / "s", (tmp_path / "s").stat().st_size - 1)
    with Store(tmp_path / "s") as store:
        add(store, row("c"))
        assert all(key in store and store.get(key)["id"] == key for key in "abc")


@pytest.mark.parametrize("cut", [2, 5, 30])
def test_a_truncated_last_line_is_removed(tmp_path, cut):
    with Store(tmp_path / "s") as store:
        add(store, row("a"), row("b"))
    os.truncate(tmp_path / "s", (tmp_path / "s").stat().st_size - cut)
    with Store(tmp_path / "s") as store:
        assert "a" in store and "b" not in store
        add(store, row("c"))
    assert [json.loads(line)["key"] for line in (tmp_path / "s").read_text().splitlines()] == ["a", "c"]


def test_unpriced_answers_count_at_their_highest_cost(tmp_path):
    most = {"prompt": 50, "completion": 100}
    used = {"prompt": 20, "completion": 3}
    with Store(tmp_path / "s") as store:
        without = row("b", cost=None) | {"most": most, "usage": None}
        reported = row("c", cost=None) | {"most": most, "usage": used}
        add(store, row("a") | {"most": most}, without, reported, {"lost": "d", "most": most})
    with Store(tmp_path / "s") as store:
        assert store.unpriced_tokens == (120, 203) and "d" not in store and store.answer_limits == {100}


def test_another_file_is_not_overwritten(tmp_path):
    (tmp_path / "s").write_text('{"id": "x"}\n')
    with pytest.raises(InputError, match="s:1: this line is not an answer"):
        Store(tmp_path / "s")
    assert (tmp_path / "s").read_text() == '{"id": "x"}\n'


@pytest.mark.parametrize("content", [b"hello", b'{"a": [1,', b"\x89PNG\r\n", b'{"id": "x"}', b"[" * 200_000 + b"\n"])
def test_a_file_that_is_not_a_store_is_left_unchanged(tmp_path, content):
    (tmp_path / "s").write_bytes(content)
    for repair in (False, True):
        with pytest.raises(InputError):
            Store(tmp_path / "s", repair=repair)
        assert (tmp_path / "s").read_bytes().removesuffix(b"\n") == content.removesuffix(b"\n")


def test_a_damaged_line_is_named_and_repair_moves_it_and_keeps_all_others(tmp_path):
    file = tmp_path / "s"
    with Store(file) as store:
        add(store, *(row(str(n)) for n in range(5)))
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1:1] = [b"\x00\xff damaged\n"]
    lines[4] = lines[4][:30] + b"\n"  # the row of "3"
    file.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=r"s:2: this line is not an answer.*add --repair: it moves .* to s\.damaged"):
        Store(file)
    assert file.read_bytes() == b"".join(lines)
    with Store(file, repair=True) as store:
        assert (store.repaired, len(store), store.spent) == (2, 4, 4.0) and "3" not in store
        with pytest.raises(InputError, match="another command uses it now"):
            Store(file)
        add(store, row("3"))
    assert (tmp_path / "s.damaged").read_bytes() == lines[1] + lines[4]
    with Store(file, repair=True) as store:
        assert store.repaired == 0 and [store.get(str(n))["id"] for n in range(5)] == list("01234")


HUGE = 10**400


@pytest.mark.parametrize(
    "usage", [{"prompt": -5_000_000, "completion": 0}, {"prompt": HUGE, "completion": 1}, {"prompt": 1.5}, "none", [1]]
)
@pytest.mark.parametrize("cost", [-12.5, HUGE, "1", True, None, float("inf")])
def test_no_row_of_an_earlier_version_lowers_what_is_counted(tmp_path, usage, cost):
    most = {"prompt": 50, "completion": 100}
    with Store(tmp_path / "s") as store:
        add(store, row("a"), row("b") | {"most": most, "usage": usage, "cost": cost})
    with Store(tmp_path / "s") as store:
        assert store.spent == 1.0 and store.unpriced_tokens == (50, 100) and "b" in store


def test_calls_in_flight_at_a_kill_count_at_their_highest_cost(tmp_path):
    async def calls(store):
        for key in "abcd":
            store.begin(key, key, Usage(50, 100))
        await store.add(row("a"))
        store.release("b")
        await store.add({"lost": "c", "most": {"prompt": 50, "completion": 100}})

    with Store(tmp_path / "s") as store:
        asyncio.run(calls(store))
        assert store.killed == 0 and store.unpriced_tokens == (50, 100)
    for _ in range(2):
        with Store(tmp_path / "s") as store:
            assert (store.killed, store.unpriced_tokens, store.spent) == (1, (100, 200), 1.0)
    with Store(tmp_path / "s") as store:
        store.begin("d", "d", Usage(50, 100))
        add(store, row("d"))
    with Store(tmp_path / "s") as store:
        assert (store.killed, store.unpriced_tokens, store.spent) == (1, (100, 200), 2.0)


def test_only_one_process_at_a_time_opens_a_store(tmp_path):
    with Store(tmp_path / "s"), pytest.raises(InputError, match="another command uses it now"):
        Store(tmp_path / "s")


def test_a_lone_surrogate_survives(tmp_path):
    with Store(tmp_path / "s") as store:
        add(store, row("a") | {"answer": {"a": "\ud83d"}})
        assert store.get("a")["answer"] == {"a": "\ud83d"}


def test_a_full_disk_is_one_line_and_leaves_no_half_row(tmp_path):
    script = f"""
import asyncio, resource, signal
from mmkp_jax.errors import InputError
from mmkp_jax.teacher.cost import Usage
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
    reported = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    assert "answers cannot be stored here (File too large)" in reported
    lines = (tmp_path / "s").read_text().splitlines()
    assert lines and all(json.loads(line) for line in lines)
