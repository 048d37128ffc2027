"""launch/tpu.sh against a gcloud that answers as Cloud TPU does; launch/host.sh for real."""

import os
import re
import shlex
import signal
import subprocess
import time

import pytest

from tests.support.launch_fakes import PROGRAM, ROOT

FLAGS = ("--name=mmkp", "--zone=us-west4-a", "--poll=0", "--revision=c0ffee", "--repo=https://example.com/mmkp.git")
ASKED = (*FLAGS, "--accelerator=v5litepod-16")

GCLOUD = """
if "describe" in words:
    state = answer("states")
    if state == "ABSENT":
        sys.exit("ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: no such resource")
    if state == "UNKNOWN":
        sys.exit("ERROR: not logged in")
    print("a warning", file=sys.stderr)
    print(state)
elif "ssh" in words and "host.sh run" in words[-2]:
    sys.exit(answer("statuses"))
"""
HERE = """
if "ssh" in words:  # runs the hosts' commands here
    sys.exit(subprocess.run(["bash", "-c", words[-2].removeprefix("--command=")]).returncode)
"""


@pytest.fixture
def gcloud(fakes):
    fakes.make("gcloud", GCLOUD)

    def answers(states, statuses):
        fakes.answers("states", *states)
        fakes.answers("statuses", *statuses)
        return fakes

    return answers


def host_commands(fakes) -> list[str]:
    """Each call in a word; looks at the state are left out."""
    words = []
    for call in fakes.calls():
        assert call[:3] == ["gcloud", "compute", "tpus"] and call[-1] == "--zone=us-west4-a"
        words.append(("run" if "host.sh run" in call[-2] else "install") if "ssh" in call else call[4])
    return [word for word in words if word != "describe"]


def test_an_uneventful_run(gcloud):
    fakes = gcloud(["ABSENT", "CREATING", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], [0])
    done = fakes.run("tpu.sh", "babysit", *ASKED, "--spot", "--delete", "--", *PROGRAM)
    assert done.returncode == 0, done.stderr
    look, *_ = calls = fakes.calls()
    create, install, run, delete = [call for call in calls if call != look]
    tpus, zone = ["gcloud", "compute", "tpus"], "--zone=us-west4-a"
    assert look == [*tpus, "queued-resources", "describe", "mmkp", "--format=value(state.state)", zone]
    kind = ["--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"]
    assert create == [*tpus, "queued-resources", "create", "mmkp", "--node-id=mmkp", *kind, "--spot", zone]
    on_all = [*tpus, "tpu-vm", "ssh", "mmkp", "--worker=all", "--batch-size=all"]
    assert install[:-2] == run[:-2] == on_all
    for part in (
        "git clone --quiet https://example.com/mmkp.git",
        "checkout --quiet c0ffee",
        "-c requirements/tested.txt",
    ):
        assert part in install[-2]
    flags = " ".join(PROGRAM)
    assert re.fullmatch(
        rf"--command=cd mmkp_jax && launch/host.sh run \d+ \.venv/bin/python -m mmkp_jax.main {flags}", run[-2]
    )
    assert delete == [*tpus, "queued-resources", "delete", "mmkp", "--force", "--quiet", zone]
    assert calls.count(look) == 5


@pytest.mark.parametrize("lost, status", [("SUSPENDING", 134), ("SUSPENDED", 1), ("FAILED", 255), ("PREEMPTED", 137)])
def test_a_preemption_in_the_middle_asks_for_the_slices_again(gcloud, lost, status):
    states = ["ABSENT", "ACTIVE", "ACTIVE", lost, lost, "ABSENT", "WAITING_FOR_RESOURCES", "ACTIVE"]
    fakes = gcloud(states, [status, 0])
    done = fakes.run("tpu.sh", "babysit", *ASKED, "--", *PROGRAM)
    assert done.returncode == 0, done.stderr
    assert host_commands(fakes) == ["create", "install", "run", "delete", "create", "install", "run"]
    assert "the slices were lost; again, restart 1 of 10 in a row" in done.stderr


def test_slices_that_are_lost_too_often_end_it(gcloud):
    fakes = gcloud(["ABSENT", "ACTIVE", *["SUSPENDED", "SUSPENDED", "ABSENT", "ACTIVE"] * 3], [134])
    done = fakes.run("tpu.sh", "babysit", *ASKED, "--restarts=2", "--delete", "--", *PROGRAM)
    assert done.returncode == 1
    assert host_commands(fakes).count("create") == 3 and host_commands(fakes)[-1] == "delete"
    assert "the slices were lost; that was restart 2 of 2 in a row, the last" in done.stderr


def test_a_run_that_was_stopped_or_lost_a_host_is_started_again(gcloud):
    fakes = gcloud(["ACTIVE"], [75, 76, 134, 0])
    done = fakes.run("tpu.sh", "babysit", *ASKED, "--", *PROGRAM)
    assert done.returncode == 0
    assert host_commands(fakes) == ["install", "run"] * 4
    ids = {call[-2].split()[5] for call in fakes.calls() if "host.sh run" in call[-2]}
    assert len(ids) == 4  # a host takes the same one for the same run


def test_a_run_that_hangs_every_time_does_not_cost_money_for_ever(gcloud):
    fakes = gcloud(["ACTIVE"], [75])
    done = fakes.run("tpu.sh", "babysit", *ASKED, "--restarts=2", "--delete", "--", *PROGRAM)
    assert done.returncode == 75
    assert host_commands(fakes) == [*["install", "run"] * 3, "delete"]
    assert "the run ended with 75; that was restart 2 of 2 in a row, the last" in done.stderr


def test_a_run_that_saved_before_its_slices_went_finds_new_ones(gcloud):
    fakes = gcloud(["ABSENT", "ACTIVE", "SUSPENDING", "SUSPENDING", "ABSENT", "ACTIVE"], [75, 0])
    done = fakes.run("tpu.sh", "babysit", *ASKED, "--", *PROGRAM)
    assert done.returncode == 0
    assert host_commands(fakes) == ["create", "install", "run", "delete", "create", "install", "run"]


@pytest.mark.parametrize("status", [1, 2, 130, 137])
def test_any_other_status_ends_it_and_the_slices_are_given_back_where_asked(gcloud, status):
    fakes = gcloud(["ACTIVE"], [status])
    done = fakes.run("tpu.sh", "babysit", *ASKED, "--delete", "--", *PROGRAM)
    assert done.returncode == status
    assert host_commands(fakes) == ["install", "run", "delete"]


def test_a_lost_connection_joins_the_run_again(gcloud):
    fakes = gcloud(["ACTIVE"], [255, 0])
    assert fakes.run("tpu.sh", "babysit", *ASKED, "--", *PROGRAM).returncode == 0
    assert host_commands(fakes) == ["install", "run"] * 2


@pytest.mark.parametrize(
    "states, done_so_far",
    [
        (["ABSENT", "PROVISIONING", "DELETING", "ABSENT"], ["create"]),
        (["ABSENT", "ACTIVE", "DELETING", "ABSENT"], ["create", "install", "run"]),
        (["ACTIVE", "ABSENT"], ["install", "run"]),
    ],
)
def test_slices_that_someone_deleted_are_not_paid_for_again(gcloud, states, done_so_far):
    fakes = gcloud(states, [255])
    done = fakes.run("tpu.sh", "babysit", *ASKED, "--", *PROGRAM)
    assert done.returncode == 1 and "was deleted by someone" in done.stderr
    assert host_commands(fakes) == done_so_far


@pytest.mark.parametrize("states, status", [(["UNKNOWN"], 1), (["ACTIVE", "UNKNOWN", "ACTIVE"], 0)])
def test_a_gcloud_that_cannot_tell_ends_it_at_once_and_not_later(gcloud, states, status):
    fakes = gcloud(states, [75, 0])
    done = fakes.run("tpu.sh", "babysit", *ASKED, "--", *PROGRAM)
    assert done.returncode == status and "not logged in" in done.stderr
    assert ("run" in host_commands(fakes)) == (status == 0) and "create" not in host_commands(fakes)


def test_ctrl_c_leaves_the_run_and_the_slices(fakes):
    fakes.make("gcloud", GCLOUD.replace('sys.exit(answer("statuses"))', "import time; time.sleep(60)"))
    fakes.answers("states", "ACTIVE")
    launched = fakes.popen("tpu.sh", "babysit", *ASKED, "--delete", "--", *PROGRAM)
    while "run" not in host_commands(fakes):
        time.sleep(0.05)
    os.killpg(launched.pid, signal.SIGINT)
    _, errors = launched.communicate(timeout=30)
    assert launched.returncode == 130 and "a started run continues" in errors
    assert "delete" not in host_commands(fakes)


def test_several_slices_are_one_request_and_one_command(gcloud):
    fakes = gcloud(["ABSENT", "ACTIVE"], [0])
    kind = ("--accelerator=v5p-128", "--slices=2", "--reserved")
    assert fakes.run("tpu.sh", "babysit", *FLAGS, *kind, "--", *PROGRAM).returncode == 0
    create, install, run = [call for call in fakes.calls() if "describe" not in call]
    nodes = ["--node-count=2", "--node-prefix=mmkp", "--accelerator-type=v5p-128", "--runtime-version=v2-alpha-tpuv5"]
    assert create[4:-1] == ["create", "mmkp", *nodes, "--reserved"]
    for call in (install, run):
        assert call[3:8] == ["queued-resources", "ssh", "mmkp", "--node=all", "--worker=all"]


@pytest.mark.parametrize(
    "accelerator, runtime",
    [("v5litepod-8", "v2-alpha-tpuv5-lite"), ("v5litepod-256", "v2-alpha-tpuv5-lite"), ("v6e-8", "v2-alpha-tpuv6e")],
)
def test_each_kind_of_slice_has_its_runtime(gcloud, accelerator, runtime):
    fakes = gcloud(["ABSENT", "ACTIVE"], [])
    assert fakes.run("tpu.sh", "create", *FLAGS, f"--accelerator={accelerator}").returncode == 0
    create = fakes.calls()[1]
    assert f"--accelerator-type={accelerator}" in create and f"--runtime-version={runtime}" in create


def test_the_program_gets_its_flags_as_they_were_given(fakes, tmp_path):
    fakes.make("gcloud", HERE)
    home = tmp_path / "host"
    (home / "mmkp_jax/.venv/bin").mkdir(parents=True)
    (home / "mmkp_jax/launch").symlink_to(ROOT / "launch")
    python = home / "mmkp_jax/.venv/bin/python"
    python.write_text('#!/bin/bash\nprintf "<%s>" "$@"\nexit 7\n')
    python.chmod(0o755)
    flags = [
        "--config=configs/sft.py",
        "--workdir=/mnt/shared/my runs",
        "--config.seed=1",
        "--config.make='$HOME' \"π\"",
    ]
    fakes.make("gcloud", HERE.replace('["bash"', f'["env", "--chdir={home}", "HOME={home}", "bash"'))
    done = fakes.run("tpu.sh", "run", *FLAGS, "--", *flags)
    assert done.stdout == "".join(f"<{word}>" for word in ["-m", "mmkp_jax.main", *flags])
    assert done.returncode == 7


@pytest.mark.parametrize("missing", [True, False])
def test_a_host_is_prepared_once(fakes, tmp_path, missing):
    home = tmp_path / "host"
    (home / "mmkp_jax/.venv").mkdir(parents=True)
    if not missing:
        (home / "mmkp_jax/.venv/installed").touch()
    for name in ("git", "python3", "mount"):
        fakes.make(name, "if 'clone' in words: os.makedirs(words[-1])")
    (home / ".local/bin").mkdir(parents=True)
    (home / ".local/bin/uv").symlink_to(fakes.folder / "python3")
    fakes.make("gcloud", HERE.replace('["bash"', f'["env", "--chdir={home}", "HOME={home}", "bash"'))
    done = fakes.run("tpu.sh", "babysit", *ASKED, "--dry_run", "--setup=mount -a", "--", *PROGRAM)
    (line,) = [line for line in done.stdout.splitlines() if "git clone" in line]
    subprocess.run(
        ["bash", "-c", shlex.split(line)[-2].removeprefix("--command=")],
        cwd=home, env=fakes.environment(HOME=str(home)), check=False,
    )  # fmt: skip
    done_here = [call[0] for call in fakes.calls()]
    assert done_here == (["mount", "git", "git", "python3", "python3", "python3"] if missing else [])


FOLDERS = '{"hierarchical_namespace": {"enabled": true}, "name": "posts"}'


@pytest.mark.parametrize("about, status", [(FOLDERS, 0), ('{"name": "posts"}', 2)])
def test_a_bucket_is_mounted_before_every_start_and_has_to_have_folders(gcloud, about, status):
    fakes = gcloud(["ACTIVE"], [75, 0])
    fakes.make("gcloud", f'if "storage" in words:\n    sys.exit(print({about!r}))\n' + GCLOUD)
    done = fakes.run("tpu.sh", "babysit", *ASKED, "--bucket=posts", "--", *PROGRAM)
    assert done.returncode == status, done.stderr
    assert fakes.calls()[0] == ["gcloud", "storage", "buckets", "describe", "gs://posts", "--format=json"]
    runs = [call[-2] for call in fakes.calls() if "host.sh run" in call[-2]]
    start = "--command=cd mmkp_jax && launch/host.sh mount posts && launch/host.sh run "
    assert len(runs) == (2 if status == 0 else 0) and all(run.startswith(start) for run in runs)
    assert ("--enable-hierarchical-namespace" in done.stderr) == (status == 2)


@pytest.mark.parametrize("mounted", [True, False])
def test_a_host_mounts_a_bucket_once_and_keeps_no_state_of_files(fakes, mounted):
    fakes.make("mountpoint", f"sys.exit({0 if mounted else 32})")
    for name in ("sudo", "gcsfuse"):
        fakes.make(name, "")
    assert fakes.run("host.sh", "mount", "posts").returncode == 0
    calls = [call for call in fakes.calls() if call[0] != "mountpoint"]
    assert [call[:2] for call in calls[:2]] == ([] if mounted else [["sudo", "mkdir"], ["sudo", "chown"]])
    ttls = ["--metadata-cache-ttl-secs=0", "--metadata-cache-negative-ttl-secs=0"]
    assert calls[2:] == ([] if mounted else [["gcsfuse", "--implicit-dirs", *ttls, "posts", "/mnt/shared"]])


@pytest.fixture
def host(tmp_path):
    """launch/host.sh, started with a home of its own."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        line = [ROOT / "launch/host.sh", *arguments]
        started.append(subprocess.Popen(line, env={**os.environ, "HOME": str(tmp_path)}, **pipes))
        return started[-1]

    yield start
    for each in started:
        each.kill()


COUNTS = "trap 'echo saving; exit 75' TERM; echo started >>{0}; touch {1}; while true; do sleep 0.05; done"


def wait_for(file):
    while not file.exists():
        time.sleep(0.05)


def test_a_broken_connection_joins_the_run_and_starts_no_second(host, tmp_path):
    file, up = tmp_path / "started", tmp_path / "up"
    first = host("run", "1", "bash", "-c", COUNTS.format(file, up))
    wait_for(up)
    first.kill()
    again, other = (host("run", each, "bash", "-c", COUNTS.format(file, up)) for each in ("1", "2"))
    time.sleep(0.5)
    assert host("stop").wait(10) == 0
    for each in (again, other):
        output, _ = each.communicate(timeout=20)
        assert each.returncode == 75 and output == "saving\n"
    assert file.read_text() == "started\n"
    late = host("run", "1", "bash", "-c", COUNTS.format(file, up))  # it ended while the connection was away
    assert late.wait(20) == 75
    assert file.read_text() == "started\n"


def test_another_run_starts_when_the_first_has_ended(host):
    for number, status in enumerate((0, 3)):
        run = host("run", str(number), "bash", "-c", f"echo {number}; exit {status}")
        output, _ = run.communicate(timeout=20)
        assert (output, run.returncode) == (f"{number}\n", status)


def test_a_run_that_was_killed_is_not_taken_for_done(host, tmp_path):
    up = tmp_path / "up"
    run = host("run", "1", "bash", "-c", COUNTS.format(tmp_path / "started", up))
    wait_for(up)
    os.killpg(int((tmp_path / ".mmkp_jax/pid").read_text()), signal.SIGKILL)
    assert run.wait(20) == 255
    assert host("run", "1", "true").wait(20) == 255
    assert host("run", "2", "true").wait(20) == 0
