"""One writer per folder: others are refused while the owner lives and take over when it is dead; a loser exits."""

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmkp_jax.errors import LOST, BusyError, InputError
from mmkp_jax.runtime import lock
from mmkp_jax.runtime.lock import BEAT, LOCK, Lock, is_alive, this_process

QUICK = {"beat": 0.05, "settle": 0.05}

HOLDS = """
import sys, time
from pathlib import Path
from mmkp_jax.runtime.lock import Lock
with Lock(Path(sys.argv[1]), 10, beat=0.1) as lock:
    lock.acquire()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock on `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def on_another_host(folder, **fields):
    """Writes the lock of a process on a machine that shares the folder."""
    owner = this_process()._replace(host="another", name="node-7", pid=12, **fields)
    (folder / LOCK).write_text(json.dumps(owner._asdict()))
    return owner


def refuse_to_lose(message):
    raise AssertionError(message)


def test_a_second_process_is_refused_while_the_first_lives_and_takes_over_once_it_is_killed(tmp_path, holder, capsys):
    before = (tmp_path / LOCK).read_bytes()
    with pytest.raises(InputError, match=f"process {holder.pid} is writing this run"), Lock(tmp_path, 10) as lock:
        lock.acquire()
    assert (tmp_path / LOCK).read_bytes() == before and holder.poll() is None
    holder.send_signal(signal.SIGKILL)  # not waited for: an ended process stays in the table until then
    while holder.pid and is_alive(this_process()._replace(pid=holder.pid, started=json.loads(before)["started"])):
        time.sleep(0.01)
    with Lock(tmp_path, 10, **QUICK, lost=refuse_to_lose) as lock:
        lock.acquire()
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    message = f"{tmp_path}: taken over from process {holder.pid}, which is no longer there"
    assert capsys.readouterr().err.splitlines() == [message]
    assert list(tmp_path.iterdir()) == []


def test_within_one_process_a_folder_is_held_once_and_is_free_again_afterwards(tmp_path):
    with Lock(tmp_path / "new", 10) as lock:
        lock.acquire()
        with pytest.raises(InputError, match=f"process {os.getpid()} is writing"), Lock(tmp_path / "new", 10) as other:
            other.acquire()
        assert (tmp_path / "new" / LOCK).exists()
    with Lock(tmp_path / "new", 10) as lock:
        lock.acquire()


def test_a_reused_process_id_is_another_process():
    ours = this_process()
    assert is_alive(ours)
    assert not is_alive(ours._replace(started="1"))
    assert not is_alive(ours._replace(pid=2**40))


def test_a_lock_of_another_host_without_heartbeat_is_taken_over(tmp_path, capsys):
    on_another_host(tmp_path)
    (tmp_path / BEAT).write_text("of a clock an hour ahead")
    os.utime(tmp_path / BEAT, (time.time() + 3600,) * 2)
    with Lock(tmp_path, 0.4, **QUICK, lost=refuse_to_lose) as lock:
        lock.acquire()
        waits, takes = capsys.readouterr().err.splitlines()
        assert waits == f"{tmp_path} is held by process 12 on node-7; waiting up to 0.4 s for its end"
        assert takes.startswith(f"{tmp_path}: taken over from process 12 on node-7, of which nothing was seen for")
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@contextlib.contextmanager
def heartbeat(folder):
    over = threading.Event()

    def beat():
        number = 0
        while not over.wait(0.02):
            number += 1
            (folder / BEAT).write_text(str(number))

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()


def test_a_lock_of_another_host_with_a_heartbeat_is_waited_for_and_respected(tmp_path):
    on_another_host(tmp_path)
    before = (tmp_path / LOCK).read_bytes()
    refused = pytest.raises(BusyError, match="12 on node-7 is writing this run")
    with heartbeat(tmp_path), refused, Lock(tmp_path, 1, **QUICK) as lock:
        lock.acquire()
    assert (tmp_path / LOCK).read_bytes() == before


def test_of_two_who_create_the_lock_in_a_mounted_bucket_the_second_learns_it_at_the_close_and_waits(
    tmp_path, monkeypatch
):
    opened = Path.open

    class Late(io.StringIO):
        def close(self):
            if not self.closed:
                super().close()
                on_another_host(tmp_path)
                raise OSError(errno.ESTALE, "Stale file handle")

    def late_open(path, mode="r", **kwargs):
        return Late() if mode == "x" and not path.exists() else opened(path, mode, **kwargs)

    monkeypatch.setattr(Path, "open", late_open)
    refused = pytest.raises(BusyError, match="12 on node-7 is writing this run")
    with heartbeat(tmp_path), refused, Lock(tmp_path, 1, **QUICK) as lock:
        lock.acquire()
    assert json.loads((tmp_path / LOCK).read_text())["name"] == "node-7"


def test_a_lock_released_during_the_wait_is_acquired_at_once(tmp_path):
    on_another_host(tmp_path)
    threading.Timer(0.2, (tmp_path / LOCK).unlink).start()
    with Lock(tmp_path, 60, **QUICK, lost=refuse_to_lose) as lock:
        lock.acquire()
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": "x"}', "\0" * 50, "[" * 100_000])
def test_an_unreadable_lock_file_is_taken_over_when_nothing_changes(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with Lock(tmp_path, 0.2, **QUICK, lost=refuse_to_lose) as lock:
        lock.acquire()


def test_an_owner_that_wakes_up_after_a_takeover_exits_with_76_and_one_line(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)
    other = on_another_host(tmp_path)
    holder.send_signal(signal.SIGCONT)
    _, error = holder.communicate(timeout=30)
    assert holder.returncode == LOST
    assert "process 12 on node-7 has taken over this run; this process exits, and writes nothing more" in error
    assert json.loads((tmp_path / LOCK).read_text()) == other._asdict()  # it is not removed


def test_a_removed_lock_is_written_again(tmp_path):
    with Lock(tmp_path, 10, **QUICK, lost=refuse_to_lose) as lock:
        lock.acquire()
        (tmp_path / LOCK).unlink()
        deadline = time.monotonic() + 20
        while not (tmp_path / LOCK).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_hidden_process_that_refuses_a_signal_is_alive(monkeypatch):
    def refused(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(lock.os, "kill", refused)
    monkeypatch.setattr(lock, "_started", lambda pid: "")
    assert lock.is_alive(lock.this_process()._replace(started="123"))


def test_control_characters_of_a_name_in_a_lock_are_escaped(tmp_path, capsys):
    owner = this_process()._replace(host="another", name="node\x1b[2J\n7")
    (tmp_path / LOCK).write_text(json.dumps(owner._asdict()))
    with Lock(tmp_path, 0.1, **QUICK, lost=refuse_to_lose) as held, contextlib.suppress(BusyError):
        held.acquire()
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.isprintable() and "\\x1b[2J\\n7" in line for line in lines)
