"""launch/slurm.sh and launch/local.sh start real processes here; Slurm itself is stood in for."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.support.launch_fakes import PROGRAM, ROOT
from tests.support.small_pocket import command, environment, metrics, small_pocket

SBATCH = """
options = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
script = next(place for place, word in enumerate(words) if not word.startswith("--"))
tasks = int(options["nodes"]) * int(options["ntasks-per-node"])
environment = os.environ | {{
    "SLURM_JOB_ID": {job!r}, "SLURM_NTASKS": str(tasks), "SLURM_CPUS_PER_TASK": options["cpus-per-task"],
}}
requeued = folder / "requeued"
for restart in range(100):
    if restart:
        environment["SLURM_RESTART_COUNT"] = str(restart)
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


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    return small_pocket(tmp_path_factory.mktemp("launched"))


@pytest.mark.nightly
@pytest.mark.parametrize("launcher", ["slurm.sh", "local.sh"])
def test_two_processes_train_and_resume_after_one_was_asked_to_stop(slurm, pocket, tmp_path, launcher):
    slurm.make(
        "python",
        "if '-m' in words:\n    print(os.getpid(), file=open(folder / 'pids', 'a'))\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *words])",
    )
    workdir, pids = tmp_path / "run", slurm.folder / "pids"
    sizes = ("global_batch_size=2", "mesh.fsdp=2", "total_steps=6", "eval_posts=2", "answer_tokens=1")
    _, _, _, *program = command(pocket, *(f"--config.{size}" for size in sizes), f"--workdir={workdir}")
    many = ["--nodes=2", "--gpus=0"] if launcher == "slurm.sh" else ["--processes=2"]
    variables = {name: environment()[name] for name in ("JAX_PLATFORMS", "XLA_FLAGS")}
    variables["JAX_COMPILATION_CACHE_DIR"] = str(pocket / "compiled")  # for both launchers
    launched = slurm.popen(launcher, *many, "--", *program, **variables)
    while not (workdir / "metrics.jsonl").exists() or len(metrics(workdir)) < 2:
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.1)
    os.kill(int(pids.read_text().split()[1]), signal.SIGTERM)
    output, errors = launched.communicate(timeout=400)
    assert launched.returncode == 0, errors[-3000:]
    assert len(pids.read_text().split()) == 4
    assert output.count("stopped, and saved, at step") == output.count("resuming from step") == 1
    assert [line["step"] for line in metrics(workdir)] == [*range(1, 7)] and (workdir / "results.json").exists()


def test_what_slurm_is_asked_for(slurm):
    slurm.make("python", "")
    flags = ("--nodes=4", "--gpus=2", "--cpus=6", "--time=2-00:00:00", "--partition=gpu", "--account=lab")
    assert slurm.run("slurm.sh", *flags, "--", *PROGRAM).returncode == 0
    sbatch, srun, *tasks = slurm.calls()
    size = ["--nodes=4", "--cpus-per-task=6", "--time=2-00:00:00", "--partition=gpu", "--account=lab"]
    gpus = ["--ntasks-per-node=2", "--gpus-per-node=2"]
    assert sbatch == ["sbatch", *size, *gpus, "launch/slurm.sbatch", "50", *PROGRAM]
    command = ["python", "-m", "mmkp_jax.main", *PROGRAM]
    assert srun == ["srun", "--cpus-per-task=6", "--kill-on-bad-exit=0", *command]
    assert tasks == [command] * 8


@pytest.mark.parametrize("status", [1, 2, 130, 137])
def test_a_job_that_failed_is_not_requeued(slurm, status):
    slurm.make("python", f"sys.exit({status})")
    assert slurm.run("slurm.sh", "--gpus=0", "--", *PROGRAM).returncode == status
    assert "scontrol" not in [call[0] for call in slurm.calls()]


@pytest.mark.parametrize("status", [75, 76, 134])
def test_a_job_queues_again_as_often_as_it_may(slurm, status):
    slurm.make("python", f"sys.exit({status})")
    assert slurm.run("slurm.sh", "--gpus=0", "--restarts=2", "--", *PROGRAM).returncode == status
    assert [call[0] for call in slurm.calls()] == ["sbatch", *["srun", "python", "scontrol"] * 2, "srun", "python"]


def test_a_job_that_was_cancelled_stays_so(slurm):
    slurm.make("srun", "os.kill(os.getppid(), 15)\nsys.exit(75)")  # to the job's script too, as scancel does
    assert slurm.run("slurm.sh", "--gpus=0", "--", *PROGRAM).returncode == 75
    assert "scontrol" not in [call[0] for call in slurm.calls()]


@pytest.mark.parametrize(
    "statuses, status", [((0, 0), 0), ((0, 3), 3), ((75, 134), 134), ((76, 134), 134), ((137, 134), 137), ((2, 2), 2)]
)
def test_local_passes_the_status_of_its_processes_on(fakes, statuses, status):
    fakes.make("python", f"print(4711) if '-c' in words else sys.exit({statuses}[int(words[-1][-1])])")
    assert fakes.run("local.sh", "--processes=2", "--", *PROGRAM).returncode == status
    assert len(fakes.calls()) == 3


@pytest.mark.parametrize("status", [75, 76])
def test_local_starts_again_as_often_as_it_may(fakes, status):
    fakes.make("python", f"sys.exit({status})")
    done = fakes.run("local.sh", "--processes=1", "--port=4711", "--restarts=2", "--", *PROGRAM)
    assert done.returncode == status and len(fakes.calls()) == 3


def test_an_hour_of_work_starts_the_count_of_restarts_anew():
    steps = "again a; again b; lasted=3600; again c; again d || echo last"
    shell = ["bash", "-c", f"source launch/common.sh; restarts=2; {steps}; again e && echo more"]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True)
    assert [line.rpartition("restart ")[2] for line in done.stderr.splitlines()] == [
        *("1 of 2 in a row", "2 of 2 in a row", "1 of 2 in a row", "2 of 2 in a row"),
        "2 of 2 in a row, the last",
    ]


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
