"""The main command: from a config to scores; stopped, killed and resumed; and unusable input in one line."""

import importlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.soak_kill import differences, killed_run
from mmkp_jax.data.posts import read_jsonl
from mmkp_jax.data.records import write_dataset
from mmkp_jax.errors import AGAIN, LOST
from mmkp_jax.runtime.lock import BEAT, LOCK, Lock, this_process
from tests.support.small_pocket import (
    ROOT,
    SIZES,
    UNFED,
    command,
    environment,
    metrics,
    run,
    run_here,
    small_pocket,
    unfinished,
)

COMPUTED = ("loss", "loss_sft", "loss_cot", "cot_share", "gamma", "grad_norm", "learning_rate", "posts", "tokens")


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    return small_pocket(tmp_path_factory.mktemp("pocket"))


@pytest.fixture(scope="module")
def unbroken(pocket):
    """Work directory and finished process of an undisturbed run."""
    workdir = pocket.parent / "unbroken"
    done = run(pocket, f"--workdir={workdir}", "--config.ablations=True")
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir, done


def state_of(workdir, step=12):
    """The whole state as numpy arrays, whatever devices it was saved from."""
    folder = workdir / "checkpoints" / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = checkpointer.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        restored = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {str(path): np.asarray(leaf) for path, leaf in ocp.tree.to_flat_dict(restored, sep="/").items()}


def curve(workdir):
    return [{name: line[name] for name in ("step", *COMPUTED)} for line in metrics(workdir)]


def test_a_run_writes_its_documented_files(unbroken):
    workdir, done = unbroken
    assert [line["step"] for line in metrics(workdir)] == list(range(1, 13))
    assert {"config.json", "environment.json", "metrics.jsonl", "results.json", "losses.npz", "hidden.npz"} <= {
        f.name for f in workdir.iterdir()
    }
    lines = [json.loads(line) for line in (workdir / "predictions/test-12.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"test-{i}" for i in range(1, SIZES["test"] + 1)]
    assert lines[-1]["id"] == UNFED and lines[-1]["predicted"] == [] and lines[-1]["keyphrases"]
    fields = {"id", "keyphrases", "predicted", "output", "form", "tokens", "think"}
    assert all(set(line) == fields | ({"scores"} if line["predicted"] else set()) for line in lines[:-1])
    results = json.loads((workdir / "results.json").read_text())
    assert set(results.pop("forms")) == {"direct", "cot", "other", "broken"}
    assert {"words", "tokens"} <= set(results.pop("answers"))
    assert results["all"]["n"] == SIZES["test"] and set(results) == {"all", "present", "absent", "seen", "unseen"}
    assert json.loads((workdir / "comparisons.json").read_text())["scores"]["dyncot, step 12"] == results
    for shown in ("images permuted", "texts blanked", "report: "):
        assert shown in done.stdout
    assert "test-1" in (workdir / "report.html").read_text()
    for shown in ("dyncot, step 12", "most frequent", "nearest neighbour", "test-1:", "posts an epoch", f": {UNFED}\n"):
        assert shown in done.stdout
    shares = {line["cot_share"] for line in metrics(workdir)}
    assert 0.0 in shares and max(shares) > 0
    first, *others = metrics(workdir)
    assert first["seconds"] is first["posts_per_second"] is None  # its call compiles
    assert all(line["seconds"] > 0 and line["posts_per_second"] == line["posts"] / line["seconds"] for line in others)
    assert "12 updates of" in done.stdout and "with a chain of thought: " in done.stdout


def kill_after(process, workdir, steps, kind):
    """Sends a signal once so many steps are in the metrics file."""
    file = workdir / "metrics.jsonl"
    for _ in range(2000):
        if file.exists() and len(file.read_text().splitlines()) >= steps:
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(kind)
    return process.communicate(timeout=120)


def started(pocket, *flags):
    return subprocess.Popen(
        command(pocket, *flags), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_run_ends_with_commands_that_are_accepted_as_they_are(unbroken):
    workdir, done = unbroken
    commands = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("  python -m mmkp_jax.")]
    parsed = {
        words[2].removeprefix("mmkp_jax."): importlib.import_module(words[2]).parser().parse_with_overrides(words[3:])
        for words in commands
    }
    assert list(parsed) == ["predict", "serve", "main", "report", "export"]
    (predict, _), (serve, _), (main, overrides), (report, _), (export, _) = parsed.values()
    assert predict.model == serve.model == str(workdir) and predict.text and export.workdir == workdir
    assert overrides[-1] == "--config.strategy=sft" and "--config.total_steps=12" in overrides
    assert report.runs == [workdir, main.workdir] and main.workdir != workdir


@pytest.mark.nightly
def test_the_commands_at_the_end_of_a_run_run(unbroken):
    lines = [line for line in unbroken[1].stdout.splitlines() if line.startswith("  python -m mmkp_jax.")]
    for line in lines:
        if "mmkp_jax.serve" in line:  # ends with Ctrl-C alone
            continue
        done = subprocess.run(["bash", "-c", line], env=environment(), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]


def test_a_finished_run_says_so_and_does_nothing_again(pocket, unbroken, tmp_path):
    workdir = shutil.copytree(unbroken[0], tmp_path / "run")
    files = {file: file.stat().st_mtime_ns for file in workdir.rglob("*") if file.is_file()}
    done = run_here(pocket, f"--workdir={workdir}", "--config.ablations=True")
    assert done.returncode == 0 and "this run has finished, and nothing is done" in done.stdout
    assert {file: file.stat().st_mtime_ns for file in workdir.rglob("*") if file.is_file()} == files
    (workdir / "results.json").unlink()  # then it evaluates again
    assert run_here(pocket, f"--workdir={workdir}", "--config.ablations=True").returncode == 0
    assert (workdir / "results.json").read_bytes() == (unbroken[0] / "results.json").read_bytes()


def test_the_best_step_on_valid_is_tested(pocket, unbroken):
    workdir = pocket.parent / "validated"
    flags = ("--config.eval_every=5", "--config.best_metric=valid/words", "--config.keep_checkpoints=1")
    done = run_here(pocket, f"--workdir={workdir}", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    words = {line["step"]: line["valid/words"] for line in metrics(workdir) if "valid/words" in line}
    assert list(words) == [5, 10, 12]
    best = max(words, key=words.get)  # the first of equals
    assert f"best on valid: step {best}, valid/words {words[best]:.4f}" in done.stdout
    assert f"dyncot, step {best}" in done.stdout and (workdir / f"predictions/test-{best}.jsonl").exists()
    assert [each.name for each in (workdir / "best").iterdir()] == [str(best)]
    assert curve(workdir) == curve(unbroken[0])  # training is unaffected


def test_a_killed_and_resumed_run_is_bit_identical_to_an_unbroken_one(pocket, unbroken):
    workdir = pocket.parent / "killed"
    kill_after(started(pocket, f"--workdir={workdir}"), workdir, 8, signal.SIGKILL)  # of 12
    assert not (workdir / "checkpoints/12").exists()
    done = run_here(pocket, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming from step" in done.stdout
    assert curve(workdir) == curve(unbroken[0])
    ours, theirs = state_of(workdir), state_of(unbroken[0])
    assert ours.keys() == theirs.keys()
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)


def nearly_equal(workdir, whole):
    for one, other in zip(curve(workdir), curve(whole), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    ours, theirs = state_of(workdir), state_of(whole)
    assert ours.keys() == theirs.keys()
    for path, leaf in theirs.items():
        bound = 1e-5 * np.abs(leaf).max(initial=0)
        np.testing.assert_allclose(ours[path], leaf, rtol=0, atol=bound, err_msg=path)


@pytest.mark.nightly
def test_resuming_with_a_worker_and_heads_on_two_devices_is_equal_to_1e_5(pocket, unbroken, tmp_path):
    workdir = shutil.copytree(unbroken[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints/12")
    on_two = ("--config.mesh.tensor=2", "--config.data.workers=1")
    done = run(pocket, f"--workdir={workdir}", "--config.ablations=True", *on_two, devices=2)
    assert done.returncode == 0 and "resuming from step 9" in done.stdout, done.stderr[-3000:]
    nearly_equal(workdir, unbroken[0])


@pytest.mark.nightly
def test_resuming_with_workers_on_another_mesh_is_equal_to_1e_5(pocket):
    workdir, whole = pocket.parent / "mesh", pocket.parent / "mesh-whole"
    two_rows = "--config.global_batch_size=2"
    assert run(pocket, two_rows, f"--workdir={whole}").returncode == 0
    kill_after(started(pocket, two_rows, f"--workdir={workdir}"), workdir, 8, signal.SIGKILL)
    on_two = ("--config.mesh.fsdp=2", "--config.data.workers=2")
    done = run(pocket, two_rows, f"--workdir={workdir}", *on_two, devices=2)
    assert done.returncode == 0, done.stderr[-3000:]
    nearly_equal(workdir, whole)


@pytest.mark.nightly
def test_a_run_stopped_by_ctrl_c_in_this_process_resumes(pocket, unbroken):
    workdir = pocket.parent / "interrupted-here"
    flags = (f"--workdir={workdir}", "--config.ablations=True")

    def interrupt() -> None:
        while not (workdir / "metrics.jsonl").exists() or len(metrics(workdir)) < 4:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    done = run_here(pocket, *flags)
    thread.join()
    assert done.returncode == 130 and "to resume: " in done.stdout and "Traceback" not in done.stderr
    assert not (workdir / "checkpoints/12").exists()
    done = run_here(pocket, *flags)
    assert done.returncode == 0 and "resuming from step" in done.stdout, done.stderr[-3000:]
    assert differences(workdir, unbroken[0]) == []


@pytest.mark.nightly
def test_a_run_stopped_by_ctrl_c_resumes(pocket, unbroken):
    workdir = pocket.parent / "interrupted"
    flags = f"--workdir={workdir}"
    process = started(pocket, flags)
    out, err = kill_after(process, workdir, 4, signal.SIGINT)
    assert process.returncode == 130, err[-3000:]
    assert "to resume: python -m mmkp_jax.main --config=configs/dyncot.py" in out and "Traceback" not in err
    done = run(pocket, flags)
    assert done.returncode == 0 and curve(workdir) == curve(unbroken[0])


@pytest.mark.nightly
def test_of_two_concurrent_runs_the_second_is_refused_and_the_first_is_unharmed(pocket, unbroken):
    workdir = pocket.parent / "at-once"
    first = started(pocket, f"--workdir={workdir}", "--config.ablations=True")
    while not (workdir / "metrics.jsonl").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)  # so that it cannot end before the second checks
    second = run(pocket, f"--workdir={workdir}", "--config.ablations=True")
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2 and f"process {first.pid} is writing this run" in second.stderr.splitlines()[-1]
    _, error = first.communicate(timeout=120)
    assert first.returncode == 0, error[-3000:]
    assert [line["step"] for line in metrics(workdir)] == list(range(1, 13))
    assert differences(workdir, unbroken[0]) == []


def test_a_second_ctrl_c_ends_a_run_at_once_in_a_line(pocket):
    """The first one is answered after the step, which compiles here."""
    workdir = pocket.parent / "twice"
    process = started(pocket, f"--workdir={workdir}")
    while not (workdir / "checkpoints").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    for line in process.stderr:
        if "once more to stop at once" in line:
            break
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in out + error, error
    assert error.strip().splitlines()[-1] == "stopped at once; started again, the run resumes from its last checkpoint"


OTHERS = (pytest.param(name, marks=pytest.mark.nightly) for name in ("sft", "cot", "multitask"))


@pytest.mark.parametrize("strategy", ["zeroshot", *OTHERS])
def test_the_other_strategies_run(pocket, strategy):
    workdir = pocket.parent / strategy
    done = run_here(pocket, f"--workdir={workdir}", "--config.total_steps=3", config=f"configs/{strategy}.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        workdir / "results.json"
    ).exists() and f"{strategy}, step {0 if strategy == 'zeroshot' else 3}" in done.stdout


@pytest.mark.parametrize("limit", [500, pytest.param(100_000, marks=pytest.mark.nightly)], ids=["config", "checkpoint"])
def test_no_space_on_disk_is_one_line_and_exit_2(pocket, unbroken, tmp_path, limit):
    done = run(pocket, f"--workdir={tmp_path / 'run'}", file_bytes=limit)
    message = [line for line in done.stderr.split("\n") if line.strip() and "step" not in line.split("|")[-1]]
    assert done.returncode == 2, done.stderr[-3000:]
    assert len(message) == 1 and "cannot be written (File too large); check free space" in message[0], message


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--config.gama=0.3"], "unknown key 'gama' (did you mean 'gamma'?)"),
        (["--config=configs/presets.py"], "configs/presets.py: it defines no function get_config"),
        (["--config.make=no.such"], "config.make=no.such"),
        (["--config.make=.relative"], "config.make=.relative"),
        (["--config.row.images.windows=0"], "have no window"),
        (["--config.row.labels=0"], "config.row.labels: 0 is out of range"),
        (["--config.freeze=(1,)"], "config.freeze: (1,) is not a list of texts"),
        ([f"--profile_steps={'9' * 5000}:{'9' * 5000}"], "is not FIRST:LAST"),
        (["--config.log_every=0"], "config.log_every: 0 is out of range"),
        (["--config.data.max_text_tokens=9999"], "a text may have 9,999 tokens, a row 320"),
        (["--config.strategy=zeroshot", "--config.frozen_dtype=bf16"], "did you mean 'bfloat16'?"),
        (["--config.data.kinds=none.jsonl"], "none.jsonl: cannot be read (No such file"),
        (["--config.data.train_keyphrases=none.txt"], "none.txt"),
        (["--config=configs/dyncot.py:model=pockett"], "did you mean 'model=pocket'?"),
        (["--config=configs/dyncot.py:modell=pocket"], "did you mean 'model=…'?"),
        (["--config=configs/none.py"], "configs/none.py"),
        (["--config.gamma=high"], "config.gamma: 'high' is not a number"),
        (["--config.data.path=nowhere"], "nowhere"),
        (["--config.model.path=no such folder"], "no such folder"),
        (["--config.total_steps=0"], "num_epochs is 0 and total_steps is 0"),
        (["--config.eval_every=1", "--config.best_metric=valid/all/f2"], "did you mean 'valid/all/f1@M'?"),
        (["--config.row.tokens=40", "--config.data.max_text_tokens=20"], "longer than a row"),
        (["--config.strategy=dynct"], "did you mean 'dyncot'?"),
        (["--config.mesh.tensor=3"], "does not use exactly 1 devices"),
        (["--confg=x"], "confg"),
        (["and", "more"], "and"),
    ],
)
def test_unusable_input_is_one_line_and_exit_2(pocket, tmp_path, flags, message):
    done = run_here(pocket, f"--workdir={tmp_path / 'run'}", *flags)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and message in lines[-1] and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert len(lines) == 1, lines
    assert not (tmp_path / "run").exists()  # nothing is claimed before all checks


def test_a_folder_that_holds_something_else_is_left_alone(pocket, tmp_path):
    named = (("half", '{"strategy": "dyn', "is not JSON"), ("model", '{"model_type": "qwen2_5_vl"}', "no 'strategy'"))
    for name, content, message in named:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
        done = run_here(pocket, f"--workdir={tmp_path / name}")
        assert done.returncode == 2 and "this is not the config of a run" in done.stderr.splitlines()[-1]
        assert f"{tmp_path / name / 'config.json'}: " in done.stderr and message in done.stderr
        assert [file.name for file in (tmp_path / name).iterdir()] == ["config.json"]


def test_a_run_does_not_resume_with_other_data(pocket, unbroken, tmp_path):
    other = tmp_path / "other"
    splits = {split: read_jsonl(pocket / "posts" / f"{split}.jsonl") for split in SIZES}
    splits["train"] = [post for post in splits["train"] if post.id != "train-7"]
    write_dataset(other, splits, pocket / "images")
    workdir = shutil.copytree(unbroken[0], tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["path"] = str(other)
    (workdir / "config.json").write_text(json.dumps(config))
    done = run_here(pocket, f"--workdir={workdir}", f"--config.data.path={other}", "--config.ablations=True")
    assert done.returncode == 2
    assert "the training posts are not those that this run used up to step 12" in done.stderr.splitlines()[-1]


def test_a_work_directory_of_another_config_names_the_keys(pocket, unbroken):
    done = run_here(
        pocket, f"--workdir={unbroken[0]}", "--config.ablations=True", "--config.gamma=0.3", "--config.log_every=7"
    )
    assert done.returncode == 2
    assert "gamma (was 6.5, now 0.3)" in done.stderr and "log_every" not in done.stderr


def test_weights_of_another_model_are_refused_before_the_work_directory_is_created(pocket, tmp_path):
    model = shutil.copytree(pocket / "model", tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, model / "model.safetensors")
    for config in ("configs/dyncot.py", "configs/zeroshot.py"):
        done = run_here(pocket, f"--workdir={tmp_path / 'run'}", f"--config.model.path={model}", config=config)
        assert done.returncode == 2 and "missing: model.norm.weight" in done.stderr.splitlines()[-1], done.stderr
        assert not (tmp_path / "run").exists()


def test_a_second_run_on_a_work_directory_is_refused_and_the_first_unharmed(pocket, unbroken, tmp_path):
    workdir = unfinished(unbroken[0], tmp_path / "run")
    with Lock(workdir, 120) as lock:
        lock.acquire()
        before = {file: file.read_bytes() for file in workdir.rglob("*") if file.is_file() and file.name != BEAT}
        done = run_here(pocket, f"--workdir={workdir}", "--config.ablations=True")
        assert before == {file: file.read_bytes() for file in before}
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and f"process {os.getpid()} is writing this run" in line
    assert not (workdir / LOCK).exists() and not (unbroken[0] / LOCK).exists()


def test_a_run_that_another_host_writes_ends_with_75(pocket, unbroken, tmp_path):
    """A takeover would need fifteen seconds without a heartbeat."""
    workdir = unfinished(unbroken[0], tmp_path / "run")
    owner = this_process()._replace(host="another", name="node-7", pid=12)
    (workdir / LOCK).write_text(json.dumps(owner._asdict()))
    done = run_here(pocket, f"--workdir={workdir}", "--config.ablations=True", "--lock_seconds=0.5")
    assert done.returncode == AGAIN and "process 12 on node-7 is writing this run" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and json.loads((workdir / LOCK).read_text()) == owner._asdict()


@pytest.mark.parametrize("kind, status", [(signal.SIGINT, 130), (signal.SIGTERM, AGAIN)])
@pytest.mark.parametrize("seconds", [0, 1.0], ids=["package", "libraries"])
def test_a_signal_during_imports_ends_it_with_one_line(pocket, tmp_path, kind, status, seconds):
    process = started(pocket, f"--workdir={tmp_path / 'run'}")
    while not _catches(process.pid, signal.SIGTERM):  # set by the package's first lines
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(kind)
    message = "".join(process.communicate(timeout=60)).strip()
    assert process.returncode == status and len(message.splitlines()) == 1, message
    assert "to resume" not in message and not (tmp_path / "run").exists()


def _catches(pid: int, number: signal.Signals) -> bool:
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_help_exits_0():
    done = subprocess.run([*command(ROOT)[:3], "--help"], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and "--config" in done.stdout and "--workdir" in done.stdout


@pytest.mark.nightly
def test_a_run_killed_at_random_moments_equals_an_unbroken_one(pocket, unbroken, monkeypatch):
    """A reduced form of `benchmarks/soak_kill.py`, which kills the whole pocket run twenty times."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    workdir = pocket.parent / "soaked"
    flags = (f"--workdir={workdir}", "--config.checkpoint_every=2", "--config.ablations=True")
    killed_run(command(pocket, *flags), workdir, 3, random.Random(0))
    assert differences(workdir, unbroken[0]) == []


def test_a_damaged_checkpoint_is_named_and_the_previous_one_is_restored(pocket, unbroken, tmp_path):
    workdir = unfinished(unbroken[0], tmp_path / "damaged")
    for file in (workdir / "checkpoints/12/state").rglob("*"):
        if file.is_file() and file.stat().st_size > 100_000:
            file.write_bytes(file.read_bytes()[:50_000])
    done = run_here(pocket, f"--workdir={workdir}", "--config.ablations=True")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{workdir}/checkpoints/12: it is damaged (" in done.stderr and "Traceback" not in done.stderr
    assert "going back to step 9" in done.stderr and "resuming from step 9 of 12" in done.stdout
    assert [each.name.split("-")[0] for each in (workdir / "checkpoints").glob("*damaged*")] == ["12.damaged"]
    assert differences(workdir, unbroken[0]) == []


@pytest.mark.nightly
@pytest.mark.parametrize("starts_again", [False, True])
def test_a_killed_worker_ends_the_run_which_then_resumes(pocket, unbroken, starts_again):
    workdir = pocket.parent / f"worker-{starts_again}"
    flags = (f"--workdir={workdir}", "--config.data.workers=1", "--config.ablations=True")
    process = started(pocket, *flags)
    while not (workdir / "metrics.jsonl").exists() or len((workdir / "metrics.jsonl").read_text().splitlines()) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    subprocess.run(["pkill", "-KILL", "-P", str(process.pid), "-f", "spawn_main"], check=True)
    _, error = process.communicate(timeout=120)
    assert process.returncode == LOST and "a process that loads posts was killed" in error, error
    assert "Traceback" not in error
    if starts_again:
        done = run(pocket, *flags)
        assert done.returncode == 0, done.stderr[-3000:]
        assert differences(workdir, unbroken[0]) == []


def test_sigterm_before_the_loop_ends_with_75(pocket):
    workdir = pocket.parent / "early"
    process = started(pocket, f"--workdir={workdir}")
    while not (workdir / "config.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    message, error = process.communicate(timeout=120)
    assert process.returncode == AGAIN and "to resume: python -m mmkp_jax.main --config=configs/dyncot.py" in message, (
        error
    )
    assert "Traceback" not in error


def test_a_run_is_extended_and_some_steps_are_traced(pocket, unbroken, tmp_path):
    workdir = tmp_path / "longer"
    shutil.copytree(unbroken[0], workdir)
    longer = (f"--workdir={workdir}", "--config.total_steps=14", "--config.ablations=True", "--profile_steps=13:13")
    refused = run_here(pocket, *longer)
    assert refused.returncode == 2 and "total_steps (was 12, now 14)" in refused.stderr and "--extend" in refused.stderr
    done = run_here(pocket, *longer, "--extend")
    assert done.returncode == 0, done.stderr[-3000:]
    assert curve(workdir)[:12] == curve(unbroken[0]) and [line["step"] for line in metrics(workdir)][-2:] == [13, 14]
    assert list((workdir / "profile/host-0").rglob("*.xplane.pb")) and "trace: tensorboard" in done.stdout
    shorter = run_here(pocket, f"--workdir={workdir}", "--config.total_steps=4", "--config.ablations=True", "--extend")
    assert shorter.returncode == 2 and "the run is at step 14 already" in shorter.stderr
    assert len(metrics(workdir)) == 14
