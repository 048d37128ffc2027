"""Two hosts as one job, as two processes on loopback: the same numbers, one writer, and an end together.

`benchmarks/soak_hosts.py` loses a host at each moment of a run.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak_bitflip import flip_bit
from mmkp_jax.errors import AGAIN, LOST, InputError
from mmkp_jax.pages.report.run_files import read_answers
from mmkp_jax.runtime.hosts import join
from tests.support.ports import free_port
from tests.support.small_pocket import ROOT, command, environment, run, small_pocket
from tests.test_main import curve, state_of

FIELDS = ("--config.global_batch_size=2", "--config.mesh.fsdp=2", "--config.total_steps=8", "--config.answer_tokens=2")
STEPS = 8


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    return small_pocket(tmp_path_factory.mktemp("hosts"))


def start(pocket, workdir, *flags, of_second=()):
    """Starts the processes of two hosts."""
    port = free_port()
    job = (f"--workdir={workdir}", f"--coordinator=127.0.0.1:{port}", "--num_processes=2", *FIELDS, *flags)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment()}
    return [
        subprocess.Popen(command(pocket, *job, f"--process_id={host}", *(of_second if host else ())), **pipes)
        for host in range(2)
    ]


def finish(processes, seconds=400):
    """Status, stdout and stderr of each process."""
    ended = [process.communicate(timeout=seconds) for process in processes]
    return [(process.returncode, *streams) for process, streams in zip(processes, ended, strict=True)]


def at_step(processes, workdir, step):
    while not (workdir / "metrics.jsonl").exists() or len((workdir / "metrics.jsonl").read_text().splitlines()) < step:
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def unbroken(pocket):
    """Work directory and finished process of an undisturbed job of two hosts, which `launch/local.sh` starts."""
    workdir = pocket.parent / "unbroken"
    flags = command(pocket, f"--workdir={workdir}", *FIELDS)[3:]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # whose `python` it starts
    return workdir, subprocess.run(
        ["bash", "launch/local.sh", "--processes=2", "--", *flags],
        cwd=ROOT,
        env=environment() | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=400,
    )


def nearly_equal(one, other):
    """Asserts the same curves, losses and state to 1e-5 of each array's largest number."""
    for ours, theirs in zip(curve(one), curve(other), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    with np.load(one / "losses.npz") as ours, np.load(other / "losses.npz") as theirs:
        np.testing.assert_array_equal(ours["post_N"], theirs["post_N"])
        np.testing.assert_allclose(ours["nll_sft_N"], theirs["nll_sft_N"], rtol=1e-5)
    ours, theirs = state_of(one, STEPS), state_of(other, STEPS)
    for path, leaf in theirs.items():
        np.testing.assert_allclose(ours[path], leaf, rtol=0, atol=1e-5 * max(1e-3, np.abs(leaf).max()), err_msg=path)


def test_two_hosts_compute_what_one_does_and_only_the_first_prints(pocket, unbroken):
    workdir, done = unbroken
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == done.stdout.count("posts an epoch") == 1
    alone = pocket.parent / "alone"
    done = run(pocket, f"--workdir={alone}", *FIELDS, devices=2)
    assert done.returncode == 0, done.stderr[-3000:]
    nearly_equal(workdir, alone)
    answers = [read_answers(each / f"predictions/test-{STEPS}.jsonl") for each in (workdir, alone)]
    for ours, theirs in zip(*answers, strict=True):
        assert ours._replace(think=None, scores=None) == theirs._replace(think=None, scores=None)
        assert (ours.think is None) == (theirs.think is None)
        assert ours.think is None or ours.think == pytest.approx(theirs.think, rel=1e-3)  # it is rounded
        np.testing.assert_allclose(ours.scores or (), theirs.scores or (), rtol=0, atol=2e-4)  # they are, too


@pytest.mark.nightly
def test_two_hosts_write_the_features_that_one_does_each_its_share(pocket):
    flags = ("--config.freeze=tower", "--config.compute_dtype=float32", "--config.total_steps=2")

    def features(name):
        return {file.name: file.read_bytes() for file in (pocket.parent / name).rglob("*.features")}

    def folder(name):
        return f"--config.data.features={pocket.parent / name}"

    for status, _, error in finish(start(pocket, pocket.parent / "by_two", *flags, folder("two"))):
        assert status == 0, error
    done = run(pocket, f"--workdir={pocket.parent / 'by_one'}", *FIELDS, *flags, folder("one"), devices=2)
    assert done.returncode == 0, done.stderr
    assert features("two") == features("one") != {}
    for two, one in zip(curve(pocket.parent / "by_two"), curve(pocket.parent / "by_one"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)


@pytest.mark.nightly
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
    assert "resuming from step" in ended[0][1]
    assert curve(workdir) == curve(unbroken[0])
    ours, theirs = state_of(workdir, STEPS), state_of(unbroken[0], STEPS)
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)


def damage(workdir):
    """Flips a bit that only one of two hosts reads at a restart."""
    flip_bit(max((workdir / f"checkpoints/{STEPS}/state/ocdbt.process_1/d").iterdir()), 100)


def survivor(processes, victim):
    """Kills one host, and asserts that the other ends in time, with its status and one line."""
    processes[victim].kill()
    status, _, error = finish(processes, seconds=60)[1 - victim]
    line = f"another host of this job is lost (host {victim} of 2)"
    assert status == LOST and error.count(line) == 1, error
    assert "Traceback" not in error and "@ " not in error, error


@pytest.mark.nightly
@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_that_dies_ends_the_job_within_a_minute_and_one_host_continues(pocket, unbroken, victim):
    workdir = pocket.parent / f"killed-{victim}"
    processes = start(pocket, workdir)
    at_step(processes, workdir, 4)  # the checkpoint of step 3 is complete, or will not count
    survivor(processes, victim)
    if victim:
        done = run(pocket, f"--workdir={workdir}", *FIELDS, devices=2)
        assert done.returncode == 0, done.stderr[-3000:]
        nearly_equal(workdir, unbroken[0])


@pytest.mark.nightly
@pytest.mark.parametrize("victim", [0, 1])
def test_a_host_that_dies_while_the_test_split_is_decoded_ends_the_job_within_a_minute(pocket, unbroken, victim):
    workdir = pocket.parent / f"killed-in-test-{victim}"
    shutil.copytree(unbroken[0], workdir)
    damage(workdir)
    processes = start(pocket, workdir, "--config.hang_seconds=600")
    said = ""
    while "test: " not in said:
        said += processes[0].stderr.read(1)
    assert f"checkpoints/{STEPS}: it is damaged (" in said
    survivor(processes, victim)


JOB = """
import sys, time
import numpy as np
from mmkp_jax.runtime.hosts import ending_together, true_on_all_hosts, join, wait_for_all
from mmkp_jax.runtime import meeting
meeting.GRACE_SECONDS = 0.5
where, host, what = sys.argv[1:]
join(where, 2, int(host), 60)
with ending_together():
    wait_for_all("begun")
    print("begun", flush=True)
    if what == "idle":  # as while a host compiles or loads, without messages from the others
        time.sleep(60)
    while what == "busy":
        assert true_on_all_hosts(True)
    time.sleep(3 * int(host))
print("left", flush=True)
"""


def start_job(what):
    where = f"127.0.0.1:{free_port()}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment()}
    jobs = [subprocess.Popen([sys.executable, "-c", JOB, where, str(host), what], **pipes) for host in range(2)]
    while processes_begun := jobs[0].stdout.readline():
        if processes_begun == "begun\n":
            return jobs
    raise AssertionError(finish(jobs))


@pytest.mark.parametrize("victim, what", [(0, "idle"), (1, "busy"), (0, "busy")])
def test_jax_does_not_abort_a_host_when_another_dies(victim, what):
    survivor(start_job(what), victim)


def test_hosts_wait_for_each_other_at_the_end():
    for status, _, error in finish(start_job("slow")):
        assert status == 0 and "lost" not in error


def test_a_host_that_never_joins_ends_the_others_with_one_line(tmp_path):
    flags = (f"--workdir={tmp_path / 'run'}", f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2")
    done = run(tmp_path, *flags, "--process_id=0", "--join_seconds=1")
    assert done.returncode == LOST and not (tmp_path / "run").exists()
    (line,) = done.stderr.splitlines()
    assert "of 2 hosts, 1 did not join within 1 s (--join_seconds)" in line


@pytest.mark.nightly
def test_damage_seen_by_one_host_makes_both_restore_the_previous_checkpoint(pocket, unbroken):
    workdir = pocket.parent / "damaged"
    shutil.copytree(unbroken[0], workdir)
    damage(workdir)
    ended = finish(start(pocket, workdir))
    assert [status for status, *_ in ended] == [0, 0], ended
    assert "resuming from step 6" in ended[0][1]
    errors = [error for *_, error in ended]
    assert ["another host says where" in each for each in errors].count(True) == 1, errors
    assert all(f"checkpoints/{STEPS}: it is damaged (" in each for each in errors), errors
    assert curve(workdir) == curve(unbroken[0])


def test_hosts_that_disagree_end_with_a_line_that_names_the_difference(pocket):
    workdir = pocket.parent / "disagree"
    ended = finish(start(pocket, workdir, of_second=("--config.learning_rate=1e-5",)))
    for status, _, error in ended:
        assert status == 2 and "host 1 has another config" in error and "Traceback" not in error
    assert not workdir.exists()


MEET = """
from mmkp_jax.runtime.hosts import ending_together, is_writer, join, is_multi_host
join()
import jax, sys
with ending_together():
    print(is_writer(), is_multi_host(), jax.process_count())
    print(is_writer(), file=sys.stderr)
"""


@pytest.mark.parametrize("cluster", ["slurm", "open mpi"])
def test_hosts_join_by_the_variables_of_their_cluster(cluster):
    job = random.randrange(4096)  # determines the coordinator's port
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
    (status, output, _), (status_of_second, output_of_second, error) = finish(processes)
    assert status == status_of_second == 0, error
    assert output.endswith("True True 2\n") and "True" not in output_of_second and "False" in error


def test_a_job_needs_all_of_its_flags_and_a_shared_folder():
    with pytest.raises(InputError, match="--num_processes"):
        join("127.0.0.1:1", None, 0)


@pytest.mark.parametrize("where, process", [("127.0.0.1", 0), (":1234", 0), ("127.0.0.1:99999", 1), ("127.0.0.1:1", 2)])
def test_an_invalid_coordinator_or_process_is_refused(where, process):
    with pytest.raises(InputError, match="give HOST:PORT, and each of N processes a number below N"):
        join(where, 2, process)
