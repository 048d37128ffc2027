"""launch/slurm.sh and launch/local.sh start real processes here; Slurm itself is stood in for."""

import os
import random
import signal
import sys
import time

import pytest

from tests.launch.fakes import PROGRAM, ROOT

SBATCH = """
options = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
script = next(place for place, word in enumerate(words) if not word.startswith("--"))
tasks = int(options["nodes"]) * int(options["ntasks-per-node"])
environment = os.environ | {{
    "SLURM_JOB_ID": {job!r}, "SLURM_NTASKS": str(tasks), "SLURM_CPUS_PER_TASK": options["cpus-per-task"],
    "SLURM_RESTART_COUNT": "0",
}}
requeued = folder / "requeued"
while True:
    requeued.unlink(missing_ok=True)
    status = subprocess.run(["bash", *words[script:]], env=environment).returncode
    if not requeued.exists():
        sys.exit(status)
"""
SRUN = """
command = words[next(place for place, word in enumerate(words) if not word.startswith("--")):]
step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}
tasks = [
    subprocess.Popen(command, env=os.environ | step | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)})
    for task in range(int(os.environ["SLURM_NTASKS"]))
]
sys.exit(max(task.wait() for task in tasks))  # srun's own rule
"""
SCONTROL = """
assert words == ["requeue", os.environ["SLURM_JOB_ID"]]
(folder / "requeued").touch()
"""


@pytest.fixture
def slurm(fakes):
    fakes.make("sbatch", SBATCH.format(job=str(random.randrange(10**6))))
    fakes.make("srun", SRUN)
    fakes.make("scontrol", SCONTROL)
    return fakes


def small_program(fakes) -> None:
    """`python -m mmkp_jax.main` is tests/launch/sum_over_processes.py, where `python` is looked up on the path."""
    program = str(ROOT / "tests/launch/sum_over_processes.py")
    body = f'os.execv({sys.executable!r}, [{sys.executable!r}, *(words if "-c" in words else [{program!r}, *words])])'
    fakes.make("python", body)


@pytest.mark.parametrize("launcher", ["slurm.sh", "local.sh"])
def test_two_processes_meet_and_go_on_after_they_saved(slurm, tmp_path, launcher):
    small_program(slurm)
    many = ["--nodes=2", "--gpus=0"] if launcher == "slurm.sh" else ["--processes=2"]
    done = slurm.run(launcher, *many, "--", PROGRAM[0], f"--workdir={tmp_path}", JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "saved").read_text() == (tmp_path / "result").read_text() == "3.0 of 2"


def test_what_slurm_is_asked_for(slurm):
    slurm.make("python", "")
    flags = ("--nodes=4", "--gpus=2", "--cpus=6", "--time=2-00:00:00", "--partition=gpu", "--account=lab")
    assert slurm.run("slurm.sh", *flags, "--", *PROGRAM).returncode == 0
    sbatch, srun, *tasks = slurm.calls()
    size = ["--nodes=4", "--cpus-per-task=6", "--time=2-00:00:00", "--partition=gpu", "--account=lab"]
    gpus = ["--ntasks-per-node=2", "--gpus-per-node=2"]
    assert sbatch == ["sbatch", *size, *gpus, "launch/slurm.sbatch", *PROGRAM]
    command = ["python", "-m", "mmkp_jax.main", *PROGRAM]
    assert srun == ["srun", "--cpus-per-task=6", "--kill-on-bad-exit=0", *command]
    assert tasks == [command] * 8


@pytest.mark.parametrize("status", [1, 2, 130, 137])
def test_a_job_that_failed_is_not_requeued(slurm, status):
    slurm.make("python", f"sys.exit({status})")
    assert slurm.run("slurm.sh", "--gpus=0", "--", *PROGRAM).returncode == status
    assert "scontrol" not in [call[0] for call in slurm.calls()]


def test_a_job_that_was_cancelled_stays_so(slurm):
    slurm.make("srun", "os.kill(os.getppid(), 15)\nsys.exit(75)")  # to the job's script too, as scancel does
    assert slurm.run("slurm.sh", "--gpus=0", "--", *PROGRAM).returncode == 75
    assert "scontrol" not in [call[0] for call in slurm.calls()]


@pytest.mark.parametrize(
    "statuses, status", [((0, 0), 0), ((0, 3), 3), ((75, 134), 134), ((137, 134), 137), ((2, 2), 2)]
)
def test_local_passes_the_status_of_its_processes_on(fakes, statuses, status):
    fakes.make("python", f"print(4711) if '-c' in words else sys.exit({statuses}[int(words[-1][-1])])")
    assert fakes.run("local.sh", "--processes=2", "--", *PROGRAM).returncode == status
    assert len(fakes.calls()) == 3


def test_local_gives_each_process_its_number_and_gpu(fakes):
    fakes.make("python", "(folder / words[-1]).write_text(os.environ['CUDA_VISIBLE_DEVICES'])")
    done = fakes.run("local.sh", "--processes=2", "--one_gpu_each", "--port=4711", "--", *PROGRAM)
    assert done.returncode == 0, done.stderr
    where = ["--coordinator=127.0.0.1:4711", "--num_processes=2"]
    command = ["python", "-m", "mmkp_jax.main", *PROGRAM, *where]
    assert sorted(fakes.calls()) == [[*command, f"--process_id={number}"] for number in range(2)]
    assert [(fakes.folder / f"--process_id={number}").read_text() for number in range(2)] == ["0", "1"]


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_local_lets_its_processes_save_when_it_is_stopped(fakes, number, status):
    fakes.make(
        "python",
        "import signal, time\n"
        "def save(*_):\n    time.sleep(0.3)\n    (folder / ('saved' + words[-1][-1])).touch()\n    sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\n(folder / ('up' + words[-1][-1])).touch()\ntime.sleep(60)",
    )
    launched = fakes.popen("local.sh", "--processes=2", "--port=4711", "--", *PROGRAM)
    while not all((fakes.folder / f"up{process}").exists() for process in range(2)):
        time.sleep(0.05)
    os.killpg(launched.pid, number) if number == signal.SIGINT else launched.send_signal(number)
    launched.communicate(timeout=30)
    assert launched.returncode == status
    assert all((fakes.folder / f"saved{process}").exists() for process in range(2))
    assert len(fakes.calls()) == 2
