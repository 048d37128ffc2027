"""A family unknown to the package works throughout, with one row of the registry."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from mmkp_jax.data.forest import RowSize, Tree, pack_rows
from mmkp_jax.errors import InputError
from mmkp_jax.families import registry
from mmkp_jax.families.known import FAMILIES, Known
from mmkp_jax.hf.export import export_folder
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.prompt_limits import PromptLimits
from mmkp_jax.hf.save import save_params
from mmkp_jax.inference.load_model import load_model
from mmkp_jax.main import main
from mmkp_jax.models.definition import flatten, random_params, unflatten
from mmkp_jax.predict import main as predict
from mmkp_jax.training.step import forest_losses
from tests.support.small_pocket import command, small_pocket

ROW = {"model_type": "toy", "depth": 3}
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", Known("tests.support.toy_family"))


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    """A small pocket whose model is the toy, with pocket's tokenizer."""
    pocket = small_pocket(tmp_path_factory.mktemp("toy"))
    whole, toy = pocket / "model", pocket / "toy"
    toy.mkdir()
    for name in FILES:
        if (whole / name).exists():
            shutil.copy(whole / name, toy)
    config = ROW | {"words": json.loads((whole / "config.json").read_text())["vocab_size"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", Known("tests.support.toy_family"))
        tied = registry.define(config | {"tie_word_embeddings": True})
        save_params(random_params(tied, seed=0, spread=0.2), config, toy)
    return pocket


def test_weights_come_back_under_the_familys_own_names(pocket):
    folder = open_folder(str(pocket / "toy"))
    blocks = {f"block.{i}.{name}" for i in range(3) for name in ("scale", "in", "out")}
    assert folder.tensors.keys() == {"dictionary", "end.scale"} | blocks
    assert {folder.tensors[f"block.{i}.in"].shape for i in range(3)} == {(48, 16)}
    definition = registry.define(folder.config)
    loaded, made = load_params(folder, definition.shapes()), random_params(definition, seed=0, spread=0.2)
    for path, array in flatten(loaded).items():
        np.testing.assert_array_equal(array, flatten(made)[path], err_msg=path)


def test_stacks_interleave_and_one_published_tensor_is_three_parameters(pocket):
    tensors = load_file(pocket / "toy" / "model.safetensors")
    made = flatten(random_params(registry.define(open_folder(str(pocket / "toy")).config), seed=0, spread=0.2))
    for number, (stack, index) in enumerate([("even", 0), ("odd", 0), ("even", 1)]):
        joined = np.concatenate([made[f"{stack}.{each}.weight"][index] for each in "qkv"])
        np.testing.assert_array_equal(tensors[f"block.{number}.in"], joined)


def test_one_trained_part_is_exported_within_its_published_tensor(pocket, tmp_path):
    folder = open_folder(str(pocket / "toy"))
    params = flatten(load_params(folder, registry.define(folder.config).shapes()))
    trained = {"odd.k.weight": params.pop("odd.k.weight") + 1}
    counts = export_folder(
        unflatten(trained), unflatten(params), folder, tmp_path / "out", images={}, limits=PromptLimits(8, 8), card=""
    )
    before, after = (load_file(path / "model.safetensors") for path in (folder.path, tmp_path / "out"))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"block.1.in"} and counts.trained == 1
    moved = after["block.1.in"] - before["block.1.in"]
    assert np.flatnonzero(moved.any(axis=1)).tolist() == list(range(16, 32))
    with pytest.raises(InputError, match=r"are not those that the run started from: block\.1\.in"):
        other = {"even.q.weight": params.pop("even.q.weight")}
        changed = params | {"odd.v.weight": params["odd.v.weight"] + 1, **trained}
        export_folder(
            unflatten(other), unflatten(changed), folder, tmp_path / "no", images={}, limits=PromptLimits(8, 8), card=""
        )


@pytest.mark.parametrize("tied", [True, False])
def test_a_config_that_leaves_it_to_the_files_is_tied_if_they_hold_no_head(pocket, tmp_path, tied):
    shutil.copytree(pocket / "toy", tmp_path / "toy")
    published = open_folder(str(tmp_path / "toy")).config
    assert published.pop("tie_word_embeddings") is True
    (tmp_path / "toy" / "model.safetensors").unlink()
    made = random_params(registry.define(published | {"tie_word_embeddings": tied}), seed=2)
    save_params(made, published, tmp_path / "toy")
    folder = open_folder(str(tmp_path / "toy"))
    assert "tie_word_embeddings" not in json.loads((tmp_path / "toy" / "config.json").read_text())
    loaded = flatten(load_params(folder, registry.define(folder.config).shapes()))
    assert ("out" not in loaded) == tied and loaded.keys() == flatten(made).keys()


@pytest.mark.nightly
def test_a_packed_example_equals_the_example_alone(pocket):
    definition = registry.define(open_folder(str(pocket / "toy")).config)
    params = random_params(definition, seed=1, spread=0.3)
    rng = np.random.default_rng(0)
    trees = [Tree(*(rng.integers(0, 900, n) for n in (9 + i, 4, 7))) for i in range(3)]

    def losses(rows):
        packed = pack_rows(rows, RowSize(96, 40, 3), definition.processor)
        return forest_losses(definition, params, packed, examples=3, dtype=jnp.float32)

    together, alone = losses([trees]), losses([[tree] for tree in trees])
    np.testing.assert_allclose(together.sft_BS[0], alone.sft_BS[:, 0], rtol=1e-5)
    np.testing.assert_allclose(together.cot_BS[0], alone.cot_BS[:, 0], rtol=1e-5)


def test_the_main_job_trains_evaluates_and_exports_it_and_predict_decodes_the_export(pocket, tmp_path, capsys):
    *_, out = tmp_path / "run", tmp_path / "out.jsonl"
    flags = [flag for flag in command(pocket)[3:] if ".images." not in flag]
    flags += [f"--config.model.path={pocket / 'toy'}", f"--workdir={tmp_path / 'run'}", "--config.eval_every=6"]
    assert main(flags) == 2 and "config.data.images= to drop them" in capsys.readouterr().err  # of pocket's preset
    assert main([*flags, "--config.data.images="]) == 2
    assert "config.row.images= to drop them" in capsys.readouterr().err
    assert main([*flags, "--config.data.images=", "--config.row.images="]) == 0
    (exported,) = (tmp_path / "run" / "export").iterdir()
    card = (exported / "README.md").read_text()
    assert "AutoModelForCausalLM" in card and "processor" not in card.split("## Training")[0].split("```python")[1]
    assert "The model takes no images." in card and "Image.open" not in card
    assert "pipeline_tag: text-generation" in card
    posts = pocket / "posts" / "test.jsonl"
    assert predict([f"--model={exported}", f"--posts={posts}", f"--images={pocket / 'images'}", f"--out={out}"]) == 0
    assert len(out.read_text().splitlines()) == len(posts.read_text().splitlines())
    assert load_model(str(exported)).recipe.processor.slots == ()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [name for name in lines[0] if name.startswith("fill_")] == ["fill_tokens"]
