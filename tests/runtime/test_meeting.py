"""How the hosts of a job meet, and how each learns that another is lost: on loopback, without JAX."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmkp_jax.errors import LOST, InputError, LostError
from mmkp_jax.runtime.meeting import FirstHost, OtherHost
from tests.support.ports import free_port
from tests.support.small_pocket import ROOT

HOST = """
import sys, time
from mmkp_jax.runtime import meeting, sockets
meeting.GRACE_SECONDS = 0.5
sockets.KEEPALIVE.update(TCP_KEEPIDLE=1, TCP_KEEPINTVL=1, TCP_KEEPCNT=1)  # a machine is lost after two seconds
where, host, size, work = sys.argv[1:]
print("started", flush=True)
job = meeting.meet(where, int(host), int(size), 60)
print("joined", flush=True)
time.sleep(float(work))
job.leave(lambda: print("left", flush=True))
"""


@pytest.fixture
def where():
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def start(where):
    """Starts a host as a process."""
    started = []

    def started_host(host, size, work):
        line = [sys.executable, "-c", HOST, where, str(host), str(size), str(work)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(line, cwd=ROOT, **pipes))
        return started[-1]

    yield started_host
    for process in started:
        process.kill()
        process.communicate()


def finish(process):
    said, error = process.communicate(timeout=60)
    return process.returncode, said.split(), error


def failures(meetings, seconds):
    """What waiting for all hosts raises, in each of these meetings, at the same time."""
    with ThreadPoolExecutor(len(meetings)) as pool:
        waiting = [pool.submit(meeting.wait_for_all, seconds) for meeting in meetings]
        return [each.exception(timeout=60) for each in waiting]


def test_hosts_that_joined_name_those_that_did_not_in_time(where):
    for error in failures([FirstHost(int(where.split(":")[1]), 4, 1), OtherHost(where, 2, 4)], 2):
        assert isinstance(error, LostError)
        assert "of 4 hosts, 1, 3 did not join within 2 s (--join_seconds)" in str(error)


def test_without_the_first_host_the_others_give_up_in_time(where):
    (error,) = failures([OtherHost(where, 1, 2)], 0.5)
    assert isinstance(error, LostError) and "the first host does not answer, within 0.5 s" in str(error)


def test_a_host_that_dies_before_all_have_joined_ends_the_others_at_once(where, start):
    first = FirstHost(int(where.split(":")[1]), 4, 1)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(each.wait_for_all, 1000) for each in (first, OtherHost(where, 2, 4))]
        dying = start(1, 4, 0)
        with first.changed:
            assert first.changed.wait_for(lambda: len(first._joined) == 2, 60)
        dying.kill()
        for each in waiting:
            assert isinstance(error := each.exception(timeout=60), LostError) and "host 1 of 4" in str(error)


def test_the_first_host_that_dies_before_all_have_joined_ends_the_others_at_once(where, start):
    first = start(0, 3, 0)
    with ThreadPoolExecutor(1) as pool:
        other = OtherHost(where, 1, 3)
        waiting = pool.submit(other.wait_for_all, 1000)
        while not other.connected:
            time.sleep(0.02)
        first.kill()
        assert isinstance(error := waiting.exception(timeout=60), LostError) and "first host" in str(error)


def test_hosts_that_count_another_number_of_hosts_are_a_mistake_of_both(where):
    for error in failures([FirstHost(int(where.split(":")[1]), 2, 1), OtherHost(where, 1, 3)], 60):
        assert isinstance(error, InputError)
        assert error.what == "host 1 counts 3 hosts in this job, and the first counts 2"


def test_a_stray_host_of_another_job_is_turned_away_and_the_job_continues(where):
    job = [FirstHost(int(where.split(":")[1]), 2, 1), OtherHost(where, 1, 2)]
    assert failures(job, 60) == [None, None]
    (error,) = failures([OtherHost(where, 1, 3)], 5)
    assert isinstance(error, InputError) and "counts 3 hosts" in error.what
    time.sleep(0.5)
    assert job[0].loss is None and job[1].loss is None


def test_a_port_that_is_in_use_is_a_mistake(where):
    port = int(where.split(":")[1])
    FirstHost(port, 2, 1)
    with pytest.raises(InputError, match=f"port {port}: the hosts cannot meet there"):
        FirstHost(port, 2, 0.1)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_that_dies_ends_all_others_with_one_line(start, victim):
    hosts = [start(host, 3, 50) for host in range(3)]
    for host in hosts:
        assert host.stdout.readline() + host.stdout.readline() == "started\njoined\n"
    hosts[victim].kill()
    for other in {0, 1, 2} - {victim}:
        status, said, error = finish(hosts[other])
        assert (status, said) == (LOST, []) and error.count("\n") == 2
        assert f"another host of this job is lost (host {victim} of 3)" in error


def test_a_host_that_is_slow_is_waited_for_and_not_taken_for_lost(start):
    """It is stopped, for longer than a machine may be silent: the kernel answers for it."""
    hosts = [start(0, 2, 0), start(1, 2, 1)]
    assert hosts[1].stdout.readline() + hosts[1].stdout.readline() == "started\njoined\n"
    hosts[1].send_signal(signal.SIGSTOP)
    time.sleep(4)
    assert hosts[0].poll() is None
    hosts[1].send_signal(signal.SIGCONT)
    assert [finish(host) for host in hosts] == [(0, ["started", "joined", "left"], ""), (0, ["left"], "")]
