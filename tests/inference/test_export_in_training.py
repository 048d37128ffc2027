"""A run exports its steps as Hugging Face folders, keeps them when it resumes, and detects a changed base."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from configs import dyncot
from mmkp_jax.errors import InputError
from mmkp_jax.export import main
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.inference.base import check_base, record_base
from mmkp_jax.inference.export_run import check_exports, export_into_run, open_step
from tests.support.devices import fake_devices
from tests.support.ports import free_port
from tests.support.run_on_disk import STEP, write_base, write_predictions_of, write_run
from tests.support.small_pocket import ROOT, command, environment, run_here, small_pocket
from tests.support.tiny import tiny_config


def weights_of(workdir) -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in workdir.glob("export/*/model.safetensors")}


@pytest.mark.nightly
def test_a_run_exports_every_second_evaluation_and_its_best_also_when_killed_and_resumed(tmp_path):
    pocket, workdir, killed = small_pocket(tmp_path), tmp_path / "run", tmp_path / "killed"
    flags = ("--config.eval_every=2", "--config.export_every=2", "--config.best_metric=valid/words")
    done = run_here(pocket, f"--workdir={workdir}", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    (best,) = (each.name for each in (workdir / "best").iterdir())
    assert weights_of(workdir).keys() == {"4", "8", "12", best}
    assert f"exported: {workdir / 'export' / best}\n" in done.stdout
    cards = {step: (workdir / "export" / step / "README.md").read_text() for step in weights_of(workdir)}
    assert {step for step, card in cards.items() if "| all | 6 |" in card} == {best}  # which alone was tested
    assert main([f"--workdir={workdir}", "--step=best", f"--out={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights_of(workdir)[best]

    process = subprocess.Popen(command(pocket, f"--workdir={killed}", *flags), cwd=ROOT, env=environment())
    while not (killed / "export" / "8").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert {step: weights_of(workdir)[step] for step in ("4", "8")} == weights_of(killed)
    done = run_here(pocket, f"--workdir={killed}", *flags)
    assert done.returncode == 0 and "resuming from step" in done.stdout, done.stderr[-3000:]
    assert weights_of(killed) == weights_of(workdir)
    assert not list((killed / "export").glob(".*"))


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base", tiny_config())


def test_a_step_is_exported_and_later_replaced(tmp_path, capsys):
    """The second time as at a run's end, when the step has been tested."""
    pocket, workdir = small_pocket(tmp_path), tmp_path / "run"
    write_run(workdir, pocket / "model", pocket / "dataset")
    step, _ = open_step(workdir, "latest")
    export_into_run(step)
    out = workdir / "export" / str(STEP)
    assert capsys.readouterr().out == f"exported: {out}\n"
    weights = (out / "model.safetensors").read_bytes()
    assert "No scores" in (out / "README.md").read_text()

    write_predictions_of(workdir, pocket / "posts" / "test.jsonl")
    export_into_run(step)
    assert (out / "model.safetensors").read_bytes() == weights
    assert re.search(r"\| all \| 6 \| [\d.]+ \[", (out / "README.md").read_text())
    assert [file.name for file in (workdir / "export").iterdir()] == [out.name]


LIMITED = """
import resource, sys
from pathlib import Path
from mmkp_jax.inference.export_run import export_into_run, open_step

step, _ = open_step(Path(sys.argv[1]), "latest")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
export_into_run(step)
"""


@pytest.mark.nightly
def test_an_earlier_export_stays_when_the_disk_is_full(tmp_path, base):
    """Also one that had given way to the next when that was killed before it took the name."""
    write_run(tmp_path / "run", base)
    shutil.copytree(base, tmp_path / "run" / "export" / f".{STEP}.before")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "run")],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert "the export cannot be written (File too large); check free space" in done.stderr.splitlines()[-1]
    (left,) = (tmp_path / "run" / "export").iterdir()
    assert left.name == str(STEP) and (left / "README.md").read_bytes() == (base / "README.md").read_bytes()


KILLED = """
import os, shutil, sys
from pathlib import Path
from mmkp_jax.inference.export_run import export_into_run, open_step

step, _ = open_step(Path(sys.argv[1]), "latest")
moment, replace, rmtree = sys.argv[2], os.replace, shutil.rmtree

def kill_or_replace(old, new):
    if moment == ("gives way" if old.name[0] != "." else "takes the name"):
        os.kill(os.getpid(), 9)
    replace(old, new)

def kill_or_remove(path, **options):
    if path.name.endswith(".before") and path.exists():
        (path / "config.json").unlink()
        os.kill(os.getpid(), 9)
    rmtree(path, **options)

os.replace, shutil.rmtree = kill_or_replace, kill_or_remove
export_into_run(step)
"""


@pytest.mark.parametrize(
    "moment, left",
    [
        pytest.param("gives way", {".7.unfinished": "new", "7": "earlier"}, marks=pytest.mark.nightly),
        ("takes the name", {".7.unfinished": "new", ".7.before": "earlier"}),
        pytest.param("is removed", {".7.before": "earlier", "7": "new"}, marks=pytest.mark.nightly),
    ],
)
def test_an_earlier_export_is_replaced_by_one_that_is_killed_and_by_the_next(tmp_path, base, moment, left):
    """Killed as the earlier gives way, as the new one takes the name, or as the earlier is removed."""
    run, exports = tmp_path / "run", tmp_path / "run" / "export"
    write_run(run, base)
    step, _ = open_step(run, "latest")
    export_into_run(step)
    weights = {"new": (exports / str(STEP) / "model.safetensors").read_bytes()}
    shutil.rmtree(exports)
    shutil.copytree(base, exports / str(STEP))
    weights["earlier"] = (base / "model.safetensors").read_bytes()
    assert weights["new"] != weights["earlier"]

    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(run), moment], cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert killed.returncode == -9
    found = {folder.name: (folder / "model.safetensors").read_bytes() for folder in exports.iterdir()}
    assert found == {name: weights[which] for name, which in left.items()}
    if str(STEP) in left:
        open_folder(str(exports / str(STEP)))
    else:
        with pytest.raises(InputError):
            open_folder(str(exports / str(STEP)))

    export_into_run(step)
    (there,) = exports.iterdir()
    assert there.name == str(STEP) and (there / "model.safetensors").read_bytes() == weights["new"]


def test_an_export_is_completely_on_disk_before_it_takes_its_name(tmp_path, base, monkeypatch):
    """A machine that is lost must not leave part of a file under the name."""
    write_run(tmp_path / "run", base)
    step, _ = open_step(tmp_path / "run", "latest")
    synced, named, sync, replace = set(), [], os.fsync, os.replace

    def note_sync(handle):
        sync(handle)
        synced.add(os.readlink(f"/proc/self/fd/{handle}"))

    def note_name(old, new):
        named.append({str(old), *map(str, old.iterdir())} <= synced)
        replace(old, new)
        synced.clear()

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_name)
    export_into_run(step)
    assert named == [True] and synced == {str(tmp_path / "run" / "export")}


@pytest.mark.nightly
def test_two_processes_export_parameters_that_neither_can_read_alone(tmp_path, base):
    write_run(tmp_path / "run", base)
    address = f"127.0.0.1:{free_port()}"
    program = [sys.executable, "-m", "tests.support.sharded_export", str(tmp_path / "run"), address, "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen([*program, number], cwd=ROOT, env=fake_devices(2), **pipes) for number in "01"]
    try:
        said = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(int(re.search(r"out of reach: (\d+)", each)[1]) > 0 for each in said), said
    out = tmp_path / "run" / "export" / str(STEP)
    assert [each.count(f"exported: {out}") for each in said] == [2, 0], said
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    assert (out / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_a_run_that_cannot_be_exported_is_refused_before_training(base):
    config = dyncot.get_config()
    config.export_every, config.eval_every = 2, 0
    with pytest.raises(InputError, match="every 2 evaluations are exported, but eval_every is 0; give config"):
        check_exports(config, open_folder(str(base)))
    config.eval_every = 10
    check_exports(config, open_folder(str(base)))
    (base / "preprocessor_config.json").unlink()
    for config.eval_every in (10, 0):  # without evaluations, `export` writes the folder after the run
        config.export_every = 0
        with pytest.raises(InputError, match=r"no preprocessor_config\.json, which says how images are resized; copy"):
            check_exports(config, open_folder(str(base)))


def rewrite(file, text: str) -> None:
    file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda base: rewrite(base / "chat_template.jinja", "another"), "chat_template.jinja"),
        (lambda base: rewrite(base / "processor_config.json", "{}"), "processor_config.json"),
        (lambda base: (base / "generation_config.json").unlink(), "generation_config.json"),
        (lambda base: write_wider(base), "config.json, model.safetensors"),
    ],
    ids=["changed", "new", "gone", "of another shape"],
)
def test_a_base_that_changed_since_the_run_began_is_refused(tmp_path, base, change, message):
    """At the next start and at an export; the card and the licence may change."""
    record_base(tmp_path, open_folder(str(base)))
    before = (tmp_path / "base.json").read_bytes()
    rewrite(base / "README.md", "Another card.")
    record_base(tmp_path, open_folder(str(base)))
    assert (tmp_path / "base.json").read_bytes() == before and set(json.loads(before)) >= {"tokenizer.json"}
    change(base)
    for look in (check_base, record_base):
        with pytest.raises(InputError) as caught:
            look(tmp_path, open_folder(str(base)))
        assert f"files have changed since the run began: {message}; restore the base" in str(caught.value)
    assert (tmp_path / "base.json").read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"config.json": 3}', "[" * 100_000])
def test_a_damaged_record_of_the_base_is_one_line_that_names_the_file(tmp_path, base, content):
    rewrite(tmp_path / "base.json", content)
    for look in (check_base, record_base):
        with pytest.raises(InputError, match=f"^{tmp_path / 'base.json'}: .*; restore the file, or remove it"):
            look(tmp_path, open_folder(str(base)))


def write_wider(base) -> None:
    (base / "model.safetensors").unlink()
    write_base(base, tiny_config(intermediate_size=100))


def test_a_run_whose_base_changed_is_not_exported(tmp_path, base):
    write_run(tmp_path / "run", base)
    record_base(tmp_path / "run", open_folder(str(base)))
    open_step(tmp_path / "run", "latest")
    rewrite(base / "chat_template.jinja", "{{ messages[0].content[0].text }}<|image_pad|>")
    with pytest.raises(InputError, match=r"since the run began: chat_template\.jinja"):
        open_step(tmp_path / "run", "latest")
