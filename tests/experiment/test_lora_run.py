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
from mmkp_jax.hf.adapter import ADAPTER_FILES, adapter_tensors, write_adapter
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.inference.load_model import load_model
from mmkp_jax.inference.predictor import load_predictor
from mmkp_jax.inference.run_config import run_config
from mmkp_jax.models.definition import flatten
from mmkp_jax.models.freezing import split_trained
from mmkp_jax.models.lora import Lora
from mmkp_jax.training.checkpoint import Checkpoints
from mmkp_jax.training.setup import load_frozen, load_state, plan_training
from tests.support.lora import with_adapters
from tests.support.needs_torch import needs_torch
from tests.support.run_on_disk import write_run
from tests.support.small_pocket import metrics, run_here, small_pocket, unfinished

NOT_IN_VLLM = "vLLM cannot serve this adapter: it holds the whole projector (modules_to_save); export without --adapter"

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
def adapter(pocket):
    """An adapter as PEFT has them, with random numbers, from which `finished` starts."""
    folder, path = open_folder(str(pocket / "model")), pocket.parent / "adapter"
    definition, params = with_adapters(folder, Lora(4, 32.0))
    tensors = adapter_tensors(definition, split_trained(definition, params, ())[0])
    path.mkdir()
    write_adapter({name: 0.5 * array for name, array in tensors.items()}, definition, str(folder.path), path)
    return path


@pytest.fixture(scope="module")
def finished(pocket, adapter):
    workdir = pocket.parent / "lora"
    done = train(pocket, workdir, f"--config.lora_adapter={adapter}")
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir, done


def started_from(workdir, adapter):
    """The trainable numbers with which a run of the same config would start from an adapter, by path."""
    config = run_config(workdir)
    config.lora_adapter = str(adapter)
    folder = open_folder(config.model.path)
    state = load_state(plan_training(config, folder.config), folder)
    return {path: np.asarray(leaf) for path, leaf in flatten(state["trainable"]).items()}


def trained(workdir, step=STEPS):
    """The trained numbers of a checkpoint, by path."""
    prefix = "trainable/"
    arrays = {path.removeprefix(prefix): leaf for path, leaf in state_of(workdir, step).items() if prefix in path}
    return {path.replace("/", "."): leaf for path, leaf in arrays.items()}


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


@pytest.mark.nightly
def test_a_run_with_lora_and_dropout_resumes_bit_by_bit(pocket, finished, adapter, tmp_path):
    """Started again without its last checkpoint, as after a kill, the run ends with the same state.

    The adapter that it started from is in another folder now; one of other content is another run.
    """
    workdir, _ = finished
    again = unfinished(workdir, tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / str(STEPS))
    refused = train(pocket, again)
    assert refused.returncode == 2 and "lora_adapter" in refused.stderr and len(refused.stderr.splitlines()) == 1
    done = train(pocket, again, f"--config.lora_adapter={shutil.copytree(adapter, tmp_path / 'moved')}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"resuming from step 2 of {STEPS}" in done.stdout
    before, after = state_of(workdir), state_of(again)
    assert before.keys() == after.keys()
    assert all(before[path].tobytes() == after[path].tobytes() for path in before)


def test_training_starts_from_the_adapter_that_is_given(finished, adapter, tmp_path, capsys):
    """The run from one that was written, and the next one from the run's own export, bit by bit."""
    workdir, _ = finished
    first, last = started_from(workdir, adapter), trained(workdir)
    assert first.keys() == last.keys()
    for path in first:  # four steps of at most about 1e-2 on numbers around 5e-2; others would be as if unrelated
        assert not np.array_equal(first[path], last[path])
        assert np.corrcoef(first[path].ravel(), last[path].ravel())[0, 1] > 0.8, path
    status, output = exported(capsys, f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--adapter")
    assert status == 0, output
    again = started_from(workdir, tmp_path / "out")
    assert all(again[path].tobytes() == last[path].tobytes() for path in last)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config.freeze=tower",), "config.freeze: lora_rank=4 freezes all of the base's weights; leave "),
        (("--config.lora_adapter={adapter}", "--config.lora_rank=8"), "its r is 4, not 8 as in the config; give "),
        (("--config.lora_adapter={adapter}", "--config.lora_projector=frozen"), "unexpected: base_model.model.model."),
        (("--config.lora_adapter=nowhere",), "nowhere: the folder has no adapter_config.json with "),
        (("--config.model.path={adapter}",), "this is not a model, but an adapter (PEFT) of "),
    ],
)
def test_what_lora_cannot_start_from_is_one_line_before_anything_is_made(pocket, adapter, tmp_path, flags, message):
    done = train(pocket, tmp_path / "run", *(flag.format(adapter=adapter) for flag in flags))
    assert done.returncode == 2 and message in done.stderr, done.stderr[-3000:]
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "run").exists()


def test_a_checkpoint_of_an_earlier_version_that_holds_frozen_weights_is_read_back(pocket, finished, tmp_path):
    """The last one, written as then by the class that writes them: the run resumes at its end and predicts the same.

    Then also when the base has changed, whose number is not read.
    """
    workdir, _ = finished
    config, old = run_config(workdir), unfinished(workdir, tmp_path / "old")
    folder = open_folder(config.model.path)
    plan = plan_training(config, folder.config)
    with Checkpoints(old / "checkpoints") as checkpoints:
        restored = checkpoints.restore(STEPS, plan.state)
        state = restored.state | {"frozen": load_frozen(plan, folder)}
        checkpoints.delete_after(2)
        checkpoints.save(STEPS, state, {"data": restored.metadata["data"]})
    assert any("frozen/" in path for path in state_of(old))
    shutil.rmtree(old / "predictions")
    with another_number(pocket / "model/model.safetensors"):
        done = train(pocket, old, f"--config.lora_adapter={config.lora_adapter}")
        assert done.returncode == 0 and f"resuming from step {STEPS} of {STEPS}" in done.stdout, done.stderr[-3000:]
        read = flatten(load_model(str(old)).params)
    predictions = f"predictions/test-{STEPS}.jsonl"
    assert (old / predictions).read_bytes() == (workdir / predictions).read_bytes()
    today = flatten(load_model(str(workdir)).params)
    assert read.keys() == today.keys() and all(np.array_equal(read[path], today[path]) for path in read)


def test_an_adapter_with_the_whole_projector_says_that_vllm_cannot_serve_it(pocket, tmp_path, capsys):
    """Of a run that was not trained but written; the whole job is nightly."""
    workdir = tmp_path / "run"
    write_run(workdir, pocket / "model", pocket / "dataset", freeze=(), lora_rank=4, lora_projector="full")
    status, output = exported(capsys, f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--adapter")
    assert status == 0, output
    check_adapter_of(tmp_path / "out", output, "full")


def check_adapter_of(folder, output, projector):
    names = load_file(folder / ADAPTER_FILES[1]).keys()
    of_projector = {name for name in names if ".visual.merger." in name}
    saved = json.loads((folder / ADAPTER_FILES[0]).read_text())["modules_to_save"]
    assert (NOT_IN_VLLM in output) == ("# vLLM cannot serve" in (folder / "README.md").read_text())
    if projector == "full":
        assert NOT_IN_VLLM in output and saved == ["model.visual.merger"]
        assert len(of_projector) == 5 and not any("lora_" in name for name in of_projector)
    else:
        assert NOT_IN_VLLM not in output and saved is None and not of_projector
    assert any("lora_B" in name for name in names)


@pytest.mark.nightly
@pytest.mark.parametrize("projector", ["full", "frozen"])
def test_a_run_whose_projector_trains_in_full_or_not_at_all(pocket, tmp_path, capsys, projector):
    needs_torch()
    done = train(pocket, tmp_path / "run", f"--config.lora_projector={projector}")
    assert done.returncode == 0, done.stderr[-3000:]
    whole = {path for path in trained(tmp_path / "run") if ".lora." not in path}
    assert all(path.startswith("visual.merger.") for path in whole) and bool(whole) == (projector == "full")
    status, output = exported(
        capsys, f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}", "--adapter", "--verify"
    )
    assert status == 0 and "answers are the same" in output, output
    check_adapter_of(tmp_path / "out", output, projector)


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


def test_a_run_whose_base_has_another_number_is_neither_resumed_nor_exported(
    pocket, finished, adapter, tmp_path, capsys
):
    workdir, _ = finished
    again = unfinished(workdir, tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / str(STEPS))
    what = "weights that did not train are not those that the run started from: decoder.layers.mlp.up.weight"
    line = f"{pocket / 'model'}: {what}; restore the base model of the run"
    with another_number(pocket / "model/model.safetensors"):
        done = train(pocket, again, f"--config.lora_adapter={adapter}")
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
    again = unfinished(tmp_path / "run", tmp_path / "again")
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
