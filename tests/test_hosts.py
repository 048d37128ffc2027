"""Two hosts as one job, as two processes on loopback: the same numbers, one writer, and an end together."""

import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.soak_bitflip import flip_bit
from mmkp_jax.errors import AGAIN, LOST, InputError
from mmkp_jax.hosts import join
from tests.ports import free_port
from tests.small_pocket import ROOT, command, environment, run, small_pocket
from tests.test_main import curve, state_of

FIELDS = ("--config.global_batch_size=2", "--config.mesh.fsdp=2", "--config.total_steps=8", "--config.answer_tokens=2")
STEPS = 8

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    return small_pocket(tmp_path_factory.mktemp("hosts"))


def start(pocket, workdir, *flags, of_second=()):
    """The processes of two hosts."""
    port = free_port()
    job = (f"--workdir={workdir}", f"--coordinator=127.0.0.1:{port}", "--num_processes=2", *FIELDS, *flags)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment()}
    return [
        subprocess.Popen(command(pocket, *job, f"--process_id={host}", *(of_second if host else ())), **pipes)
        for host in range(2)
    ]


def finish(processes, seconds=400):
    """Each one's (status, stdout, stderr)."""
    ended = [process.communicate(timeout=seconds) for process in processes]
    return [(process.returncode, *told) for process, told in zip(processes, ended, strict=True)]


def at_step(processes, workdir, step):
    while not (workdir / "metrics.jsonl").exists() or len((workdir / "metrics.jsonl").read_text().splitlines()) < step:
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def unbroken(pocket):
    """(work directory, each host's end) of a job of two hosts that nothing disturbed."""
    workdir = pocket.parent / "unbroken"
    return workdir, finish(start(pocket, workdir))


def nearly_equal(one, other):
    """The same curves, losses and state to 1e-5, of each array's largest number."""
    for ours, theirs in zip(curve(one), curve(other), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    with np.load(one / "losses.npz") as ours, np.load(other / "losses.npz") as theirs:
        np.testing.assert_array_equal(ours["post_N"], theirs["post_N"])
        np.testing.assert_allclose(ours["nll_sft_N"], theirs["nll_sft_N"], rtol=1e-5)
    ours, theirs = state_of(one, STEPS), state_of(other, STEPS)
    for path, leaf in theirs.items():
        np.testing.assert_allclose(ours[path], leaf, rtol=0, atol=1e-5 * max(1e-3, np.abs(leaf).max()), err_msg=path)


def test_two_hosts_compute_what_one_does_and_the_first_alone_tells(pocket, unbroken):
    workdir, ((status, told, _), (status_of_second, told_by_second, _)) = unbroken
    assert status == status_of_second == 0
    assert "report: " in told and "report: " not in told_by_second and "posts an epoch" not in told_by_second
    alone = pocket.parent / "alone"
    done = run(pocket, f"--workdir={alone}", *FIELDS, devices=2)
    assert done.returncode == 0, done.stderr[-3000:]
    nearly_equal(workdir, alone)
    answers = [(each / f"predictions/test-{STEPS}.jsonl").read_text() for each in (workdir, alone)]
    assert answers[0] == answers[1]


def test_sigterm_on_one_host_saves_on_both_and_a_restart_is_bit_identical(pocket, unbroken):
    workdir = pocket.parent / "terminated"
    processes = start(pocket, workdir)
    at_step(processes, workdir, 2)
    processes[1].send_signal(signal.SIGTERM)
    ended = finish(processes)
    assert [status for status, *_ in ended] == [AGAIN, AGAIN], ended
    assert "stopped, and saved, at step" in ended[0][1] and f"--workdir={workdir}" in ended[0][1]
    ended = finish(start(pocket, workdir))
    assert [status for status, *_ in ended] == [0, 0], ended
    assert "going on from step" in ended[0][1]
    assert curve(workdir) == curve(unbroken[0])
    ours, theirs = state_of(workdir, STEPS), state_of(unbroken[0], STEPS)
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_that_dies_ends_the_job_within_a_minute_and_one_host_goes_on(pocket, unbroken, victim):
    workdir = pocket.parent / f"killed-{victim}"
    processes = start(pocket, workdir)
    at_step(processes, workdir, 4)  # the checkpoint of step 3 is written, or will not count
    processes[victim].kill()
    began = time.monotonic()
    status, _, error = finish(processes, seconds=60)[1 - victim]
    assert time.monotonic() - began < 60
    # where JAX notices first, it aborts the process with its own words
    assert (status == LOST and "another host of this job is lost" in error) or status == -signal.SIGABRT, error
    if victim:
        done = run(pocket, f"--workdir={workdir}", *FIELDS, devices=2)
        assert done.returncode == 0, done.stderr[-3000:]
        nearly_equal(workdir, unbroken[0])


def test_damage_that_one_host_alone_sees_takes_both_to_the_checkpoint_before(pocket, unbroken):
    workdir = pocket.parent / "damaged"
    shutil.copytree(unbroken[0], workdir)
    flip_bit(max((workdir / f"checkpoints/{STEPS}/state/ocdbt.process_1/d").iterdir()), 100)  # one of them reads it
    ended = finish(start(pocket, workdir))
    assert [status for status, *_ in ended] == [0, 0], ended
    assert "going on from step 6" in ended[0][1]
    told = [error for *_, error in ended]
    assert ["another host says where" in each for each in told].count(True) == 1, told
    assert all(f"checkpoints/{STEPS}: it is damaged (" in each for each in told), told
    assert curve(workdir) == curve(unbroken[0])


def test_hosts_that_disagree_end_with_a_line_that_says_in_what(pocket):
    workdir = pocket.parent / "disagree"
    ended = finish(start(pocket, workdir, of_second=("--config.learning_rate=1e-5",)))
    for status, _, error in ended:
        assert status == 2 and "host 1 has another config" in error and "Traceback" not in error
    assert not workdir.exists()


MEET = """
from mmkp_jax.hosts import is_writer, join, several
join()
import jax, sys
print(is_writer(), several(), jax.process_count())
print(is_writer(), file=sys.stderr)
"""


@pytest.mark.parametrize("cluster", ["slurm", "open mpi"])
def test_hosts_meet_by_what_their_cluster_tells_them(cluster):
    job = random.randrange(4096)  # of which the coordinator's port is made
    processes = []
    for host in map(str, range(2)):
        variables = {
            "slurm": {
                "SLURM_JOB_ID": str(job),
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_STEP_NUM_NODES": "1",
                "SLURM_NTASKS": "2",
                "SLURM_PROCID": host,
                "SLURM_LOCALID": host,
            },
            "open mpi": {
                "OMPI_MCA_orte_hnp_uri": f"{job * 2**12}.0;tcp://127.0.0.1:1",
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_RANK": host,
                "OMPI_COMM_WORLD_LOCAL_RANK": host,
            },
        }[cluster]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
        processes.append(subprocess.Popen([sys.executable, "-c", MEET], env=environment() | variables, **pipes))
    (status, told, _), (status_of_second, told_by_second, error) = finish(processes)
    assert status == status_of_second == 0, error
    assert told.endswith("True True 2\n") and "True" not in told_by_second and "False" in error


def test_a_job_names_all_of_its_flags_and_a_shared_folder():
    with pytest.raises(InputError, match="--num_processes"):
        join("127.0.0.1:1", None, 0)
