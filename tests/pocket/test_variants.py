"""Pocket's models of other families: made once, trained by the main command, and exported for transformers."""

import importlib
import json
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from configs import dyncot
from configs.presets import PRESETS
from mmkp_jax.data.prompts import DATE
from mmkp_jax.describe import main as describe
from mmkp_jax.errors import InputError
from mmkp_jax.export import main as export
from mmkp_jax.families.registry import define, family_of
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.inference.predictor import load_predictor
from mmkp_jax.models.definition import flatten
from mmkp_jax.pocket.make import STAMP
from mmkp_jax.pocket.variants import make_variant
from tests.support.needs_torch import needs_torch
from tests.support.paths import ROOT
from tests.support.small_pocket import SIZES, metrics, run_here, small_pocket

MAKERS = [preset.removeprefix("pocket_") for preset in PRESETS["model"] if preset.startswith("pocket_")]


def variant_of(maker: str):
    return importlib.import_module(f"mmkp_jax.pocket.{maker}").VARIANT


VERIFIED = "llama3_2"
"""The variant whose export is also computed by transformers; the zoo compares the numbers of all families."""

BY_DEFAULT = ("internvl3", VERIFIED)
"""Variants whose main job runs in the default tier: one with tiles of images, one of text alone."""


def assert_transformers_loads(path) -> None:
    """Whether transformers finds each of its tensors in a folder, and no other."""
    needs_torch()
    import transformers

    folder = open_folder(str(path))
    kind = getattr(transformers, family_of(folder.config, folder.config_file).reference.model)
    _, info = kind.from_pretrained(folder.path, output_loading_info=True)
    assert not any(info[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys")), info


def assert_the_cards_code_answers_as_we_do(out, monkeypatch) -> None:
    """Of a template that writes a date, and a tokenizer that puts a token in front of every text."""
    transformers, vllm = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    compile(vllm, "README.md", "exec")
    assert f"date_string={DATE!r}" in transformers and f"{{'date_string': {DATE!r}}}" in vllm
    monkeypatch.chdir(out)
    names: dict = {}
    exec(compile(transformers, "README.md", "exec"), names)
    texts = ["the band at <place> 12345", "rain again " * 60]
    ours = load_predictor(out, answer_tokens=4)(texts, [None, None])
    assert [names["answer"](text) for text in texts] == [each.output for each in ours]


def assert_describe_takes_it(pocket, model, maker: str, page) -> None:
    config = f"--config={ROOT / 'configs/dyncot.py'}:model=pocket_{maker}"
    flags = [config, "--config.make=", f"--config.model.path={model}", f"--data={pocket / 'dataset'}"]
    assert describe([*flags, f"--out={page}"]) == 0 and page.stat().st_size > 10_000


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    return small_pocket(tmp_path_factory.mktemp("variants"))


@pytest.fixture(scope="module")
def made(pocket):
    """A function that makes a variant next to the pocket, and gives its model folder."""

    def make(maker: str):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mmkp_jax.pocket.variants.make", lambda root: None)  # which a small pocket is not
            make_variant(variant_of(maker), pocket)
        return pocket.parent / f"pocket_{maker}" / "model"

    return make


@pytest.mark.parametrize("maker", MAKERS)
def test_a_preset_names_the_model_that_its_maker_makes_and_pockets_dataset(maker):
    config, variant = dyncot.get_config(f"model=pocket_{maker}"), variant_of(maker)
    assert config.make == f"mmkp_jax.pocket.{maker}" and config.model.path == f"runs/{variant.name}/model"
    assert config.data.path == "runs/pocket/dataset" and variant.name == f"pocket_{maker}"


@pytest.mark.parametrize("maker", MAKERS)
def test_a_variant_is_a_folder_in_the_published_layout_with_random_numbers(made, maker):
    folder = open_folder(str(made(maker)))
    assert_transformers_loads(folder.path)
    params = flatten(load_params(folder, define(folder.config).shapes()))
    assert 1e6 < sum(leaf.size for leaf in params.values()) < 10e6


def test_a_variant_is_made_once_and_nothing_else_is_overwritten(made, pocket, tmp_path, monkeypatch):
    maker = MAKERS[0]
    folder = made(maker)
    before = (folder / "config.json").stat().st_mtime_ns
    assert made(maker) == folder and (folder / "config.json").stat().st_mtime_ns == before
    monkeypatch.setattr("mmkp_jax.pocket.variants.make", lambda root: None)
    other = shutil.copytree(pocket, tmp_path / "pocket")
    again = tmp_path / f"pocket_{maker}"
    make_variant(variant_of(maker), other)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert {file.name: file.read_bytes() for file in (again / "model").iterdir()} == files
    (again / STAMP).write_text("{}")
    with pytest.raises(InputError, match="was made with another seed, size or version"):
        make_variant(variant_of(maker), other)


def test_a_variant_of_an_older_pocket_is_put_aside(made, pocket, tmp_path, monkeypatch, capsys):
    maker = MAKERS[0]
    monkeypatch.setattr("mmkp_jax.pocket.variants.make", lambda root: None)
    other, again = shutil.copytree(pocket, tmp_path / "pocket"), tmp_path / f"pocket_{maker}"
    shutil.copytree(made(maker).parent, again)
    stamp = json.loads((other / STAMP).read_text())
    (other / STAMP).write_text(json.dumps(stamp | {"version": stamp["version"] + 1}))
    make_variant(variant_of(maker), other)
    aside = tmp_path / f"pocket_{maker}.version-{variant_of(maker).version}"
    assert f"the old one is now {aside}" in capsys.readouterr().err and (aside / "model").is_dir()
    assert json.loads((again / STAMP).read_text())["pocket"]["version"] == stamp["version"] + 1


def six_steps(pocket, model, maker: str, workdir):
    """The main job of a variant in this process: six steps, with a checkpoint after three."""
    fields = {
        "make": "",
        "model.path": model,
        "data.images": "",  # but the folder's own limits
        "data.path": pocket / "dataset",
        "data.kinds": pocket / "needs.jsonl",
        "num_epochs": 0,
        "total_steps": 6,
        "warmup_steps": 2,
        "gamma": 6.5,
        "checkpoint_every": 3,
        "eval_batch_size": 6,
        "answer_tokens": 4,
        "ablations": False,
    }
    config = f"configs/dyncot.py:model=pocket_{maker}"
    return run_here(pocket, f"--workdir={workdir}", fields=fields, config=config)


@pytest.mark.parametrize(
    "maker", [pytest.param(maker, marks=() if maker in BY_DEFAULT else pytest.mark.nightly) for maker in MAKERS]
)
def test_the_main_job_trains_dynamic_cot_evaluates_and_exports_for_transformers(
    made, pocket, tmp_path, monkeypatch, maker
):
    model, workdir, out = made(maker), tmp_path / "run", tmp_path / "out"
    done = six_steps(pocket, model, maker, workdir)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = metrics(workdir)
    assert len(lines) == 6 and 0 < max(line["cot_share"] for line in lines) <= 1
    assert lines[-1]["loss_sft"] < lines[0]["loss_sft"]
    results = json.loads((workdir / "results.json").read_text())
    assert results["all"]["n"] == SIZES["test"]
    assert len((workdir / "predictions/test-6.jsonl").read_text().splitlines()) == SIZES["test"]
    needs_torch()
    verify = ["--verify"] if maker == VERIFIED else []
    assert export([f"--workdir={workdir}", f"--out={out}", *verify]) == 0
    assert_transformers_loads(out)
    if maker == VERIFIED:
        assert_describe_takes_it(pocket, model, maker, tmp_path / "dataset.html")
        assert_the_cards_code_answers_as_we_do(out, monkeypatch)
    for name in ("config.json", "preprocessor_config.json")[: 1 + (model / "preprocessor_config.json").exists()]:
        assert (out / name).read_bytes() == (model / name).read_bytes()


@pytest.mark.nightly
@pytest.mark.parametrize("maker", MAKERS)
def test_a_resumed_run_of_a_variant_is_bit_identical_to_an_unbroken_one(made, pocket, tmp_path, maker):
    """`tests/test_main.py` kills and resumes pocket's own model by default."""
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    assert six_steps(pocket, made(maker), maker, unbroken).returncode == 0
    shutil.copytree(unbroken, resumed)
    shutil.rmtree(resumed / "checkpoints" / "6")
    done = six_steps(pocket, made(maker), maker, resumed)
    assert done.returncode == 0 and "resuming from step 3" in done.stdout, done.stderr[-3000:]
    ours, theirs = (state_of(workdir) for workdir in (resumed, unbroken))
    assert ours.keys() == theirs.keys() and len(theirs) > 20
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)


def state_of(workdir) -> dict[str, np.ndarray]:
    """The whole state after six steps."""
    folder = workdir / "checkpoints" / "6" / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        leaves = jax.tree_util.tree_leaves_with_path(checkpointer.restore(folder.absolute()))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
