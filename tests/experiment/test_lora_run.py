"""LoRA through the main command: what trains and is kept, a resume, a changed base, and both exports."""

import contextlib
import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file, save_file

from mmkp_jax import export
from mmkp_jax.data.records import open_split
from mmkp_jax.hf.adapter import ADAPTER_FILES, NOT_IN_VLLM
from mmkp_jax.inference.predictor import load_predictor
from tests.support.needs_torch import needs_torch
from tests.support.small_pocket import metrics, run_here, small_pocket

STEPS = 4
FLAGS = (
    f"--config.total_steps={STEPS}",
    "--config.checkpoint_every=2",
    "--config.keep_checkpoints=5",
    "--config.learning_rate=1e-2",
    "--config.lora_rank=4",
    "--config.lora_dropout=0.1",
)


def train(pocket, workdir, *flags, tune="lora"):
    return run_here(pocket, f"--workdir={workdir}", *FLAGS, *flags, config=f"configs/dyncot.py:tune={tune}")


def state_of(workdir, step=STEPS):
    folder = workdir / "checkpoints" / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = checkpointer.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
        restored = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {str(path): np.asarray(leaf) for path, leaf in ocp.tree.to_flat_dict(restored, sep="/").items()}


def exported(capsys, *flags):
    """Status and output of `export`."""
    status = export.main(list(flags))
    return status, "".join(capsys.readouterr())


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    return small_pocket(tmp_path_factory.mktemp("pocket"))


@pytest.fixture(scope="module")
def finished(pocket):
    workdir = pocket.parent / "lora"
    done = train(pocket, workdir)
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir, done


def test_a_run_with_lora_trains_adapters_alone_and_keeps_nothing_else(finished):
    workdir, done = finished
    assert all(np.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in metrics(workdir))
    assert json.loads((workdir / "results.json").read_text())["all"]["n"] > 0
    assert "note: freeze=() has no effect: lora_rank=4 freezes all of the base's weights" in done.stdout
    assert "note: lora_base=bf16: frozen_dtype=float32 holds the base in float32" in done.stdout
    state = state_of(workdir)
    arrays = {path: array for path, array in state.items() if array.size > 1}
    assert arrays and all("/lora/" in path and np.any(array) for path, array in arrays.items()), sorted(arrays)
    trained = sum(array.nbytes for path, array in arrays.items() if path.startswith("trainable/"))
    moments = sum(array.nbytes for path, array in arrays.items() if path.startswith("optimizer/"))
    assert moments == 2 * trained
    checkpoint = workdir / "checkpoints" / str(STEPS)
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    base = (finished[0].parent / "pocket/model/model.safetensors").stat().st_size
    print(f"adapters {trained:,} bytes, moments {moments:,}, checkpoint {size:,}, base {base:,}")
    assert size < base / 4
    assert not any("/frozen" in path for path in state)


def test_a_run_with_lora_and_dropout_resumes_bit_by_bit(pocket, finished, tmp_path):
    """Started again without its last checkpoint, as after a kill, the run ends with the same state."""
    workdir, _ = finished
    again = shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / str(STEPS))
    done = train(pocket, again)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"resuming from step 2 of {STEPS}" in done.stdout
    before, after = state_of(workdir), state_of(again)
    assert before.keys() == after.keys()
    assert all(before[path].tobytes() == after[path].tobytes() for path in before)


@contextlib.contextmanager
def another_number(file):
    """One number of one tensor of a file is another."""
    kept = file.with_suffix(".kept")
    shutil.copyfile(file, kept)
    weights = load_file(file)
    weights["model.layers.1.mlp.up_proj.weight"][7, 11] += 1e-3
    save_file(weights, file, {"format": "pt"})
    try:
        yield
    finally:
        kept.rename(file)


def test_a_run_whose_base_has_another_number_is_neither_resumed_nor_exported(pocket, finished, tmp_path, capsys):
    workdir, _ = finished
    again = shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / str(STEPS))
    what = "weights that did not train are not those that the run started from: decoder.layers.mlp.up.weight"
    line = f"{pocket / 'model'}: {what}; restore the base model of the run"
    with another_number(pocket / "model/model.safetensors"):
        done = train(pocket, again)
        assert done.returncode == 2 and line in done.stderr and len(done.stderr.strip().splitlines()) == 1
        status, output = exported(capsys, f"--workdir={workdir}", f"--out={tmp_path / 'out'}")
        assert status == 2 and line in output
    assert not (tmp_path / "out").exists()


@pytest.mark.nightly
def test_a_run_in_4_bits_resumes_and_its_exports_say_so(pocket, tmp_path, capsys):
    needs_torch()
    flags = ("--config.lora_projector=full", "--config.eval_every=2", "--config.export_every=1")
    done = train(pocket, tmp_path / "run", *flags, tune="qlora")
    assert done.returncode == 0, done.stderr[-3000:]
    again = shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / str(STEPS))
    done = train(pocket, again, *flags, tune="qlora")
    assert done.returncode == 0 and f"resuming from step 2 of {STEPS}" in done.stdout, done.stderr[-3000:]
    before, after = state_of(tmp_path / "run"), state_of(again)
    assert all(before[path].tobytes() == after[path].tobytes() for path in before)
    for name, *flags in (("merged",), ("adapter", "--adapter")):
        status, output = exported(
            capsys, f"--workdir={again}", f"--out={tmp_path / name}", "--verify", "--step=best", *flags
        )
        assert status == 0, output
        assert "note: trained on a base in 4 bits (NF4), " in output and (NOT_IN_VLLM in output) == bool(flags)
    exports = {file.parent.name for file in (again / "export").glob("*/config.json")}
    assert exports == {"2", str(STEPS)}


@pytest.mark.nightly
def test_both_exports_of_a_run_are_the_run(pocket, finished, tmp_path, capsys):
    """transformers loads the merged folder, PEFT the adapter, and both predict as the run does."""
    needs_torch()
    workdir, _ = finished
    for name, *flags in (("merged",), ("adapter", "--adapter")):
        out = tmp_path / name
        status, output = exported(capsys, f"--workdir={workdir}", f"--out={out}", "--verify", *flags)
        assert status == 0, output
        assert "answers are the same" in output and NOT_IN_VLLM not in output
    assert set(ADAPTER_FILES) <= {file.name for file in (tmp_path / "adapter").iterdir()}
    assert not (tmp_path / "adapter/config.json").exists()
    posts = [open_split(str(pocket / "dataset"), "test")[number] for number in range(3)]
    models = (workdir, ""), (tmp_path / "merged", ""), (pocket / "model", str(tmp_path / "adapter"))
    predictors = (load_predictor(model, adapter=adapter, answer_tokens=6) for model, adapter in models)
    ours, *others = ([each.output for _, each in predictor.predict(posts)] for predictor in predictors)
    assert others == [ours, ours]
