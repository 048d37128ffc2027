"""A family unknown to the package works throughout, with one row of the registry."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.forest import RowSize, Tree, pack_rows
from mmkp_jax.families import registry
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.save import save_params
from mmkp_jax.inference.load_model import load_model
from mmkp_jax.main import main
from mmkp_jax.models.definition import flatten, random_params
from mmkp_jax.predict import main as predict
from mmkp_jax.training.step import forest_losses
from tests.support.small_pocket import command, small_pocket

ROW = {"model_type": "toy", "depth": 3}
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(registry.FAMILIES, "toy", "tests.support.toy_family")


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
        patch.setitem(registry.FAMILIES, "toy", "tests.support.toy_family")
        save_params(random_params(registry.define(config), seed=0, spread=0.2), config, toy)
    return pocket


def test_weights_come_back_under_the_familys_own_names(pocket):
    folder = open_folder(str(pocket / "toy"))
    assert {"dictionary", "even.1.in", "odd.0.out", "end.scale"} < folder.tensors.keys()
    definition = registry.define(folder.config)
    loaded, made = load_params(folder, definition.shapes()), random_params(definition, seed=0, spread=0.2)
    for path, array in flatten(loaded).items():
        np.testing.assert_array_equal(array, flatten(made)[path], err_msg=path)


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
